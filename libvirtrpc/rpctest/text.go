// Package rpctest is for tests that need a libvirt daemon's side of a
// conversation: it records conversations with a real one as text that reads
// well in a diff, and replays them strictly.
//
// A conversation is a list of messages, each a line that says what it is and
// one line for each field of its payload:
//
//	> DomainLookupByName
//	Name = "nosuch"
//	< DomainLookupByName error
//	Code = 42
//	Message[0] = "Domain not found"
//
// ">" is a call and "<" its reply. UUIDs are in their usual form; text of
// several lines stands under its field, each line behind a tab ("|-" says that
// there is no line end after the last one). A payload whose text does not give
// back exactly its bytes is written as hex. Serials and headers are not there:
// they follow from the order.
//
// Directives say what the daemon does besides: "! hang" does not answer the
// call before it, "! close" closes the connection, "! refuse" also refuses
// every later one.
package rpctest

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/digitalocean/go-libvirt"

	"virtgate/libvirtrpc/xdr"
)

// Message is one step of a conversation.
type Message struct {
	Kind    Kind
	Proc    string // calls and replies
	Payload []byte
}

// Kind is what a message is.
type Kind int

const (
	Call Kind = iota
	Reply
	Error  // a reply that is an error
	Hang   // the call before has no answer
	Close  // the daemon closes the connection
	Refuse // as Close, and there is no other connection
)

var directives = map[Kind]string{Hang: "! hang", Close: "! close", Refuse: "! refuse"}

func (m Message) head() string {
	switch m.Kind {
	case Call:
		return "> " + m.Proc
	case Reply:
		return "< " + m.Proc
	case Error:
		return "< " + m.Proc + " error"
	}
	return directives[m.Kind]
}

// layout is the type of the message's payload, nil for an empty one.
func (m Message) layout() (reflect.Type, error) {
	if m.Kind == Error {
		return xdr.ErrorType, nil
	}
	p, ok := xdr.Named(m.Proc)
	switch {
	case !ok:
		return nil, fmt.Errorf("no procedure %q", m.Proc)
	case m.Kind == Call:
		return p.Args, nil
	}
	return p.Ret, nil
}

// Format is the text of a conversation.
func Format(ms []Message) string {
	var b strings.Builder
	for i, m := range ms {
		if i > 0 && m.Kind == Call {
			b.WriteByte('\n')
		}
		b.WriteString(m.head() + "\n")
		b.WriteString(m.fields())
	}
	return b.String()
}

// fields are the lines of the payload.
func (m Message) fields() string {
	if len(m.Payload) == 0 {
		return ""
	}
	asHex := "hex = " + hex.EncodeToString(m.Payload) + "\n"
	t, err := m.layout()
	if err != nil || t == nil || xdr.Check(t, m.Payload) != nil {
		return asHex
	}
	v, err := xdr.Decode(t, m.Payload)
	if err != nil {
		return asHex
	}
	var b strings.Builder
	if !write(&b, "", reflect.Indirect(reflect.ValueOf(v))) {
		return asHex
	}
	back := Message{Kind: m.Kind, Proc: m.Proc}
	if back.parseFields(strings.SplitAfter(b.String(), "\n")) != nil || !bytes.Equal(back.Payload, m.Payload) {
		return asHex
	}
	return b.String()
}

var (
	uuidType  = reflect.TypeFor[libvirt.UUID]()
	paramType = reflect.TypeFor[libvirt.TypedParamValue]()
)

// write appends the lines of a value; false when it has no text.
func write(b *strings.Builder, path string, v reflect.Value) bool {
	line := func(text string) bool {
		b.WriteString(path + " = " + text + "\n")
		return true
	}
	switch {
	case v.Type() == uuidType:
		u := v.Interface().(libvirt.UUID)
		return line(fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]))
	case v.Type() == paramType:
		p := v.Interface().(libvirt.TypedParamValue)
		if s, ok := p.I.(string); ok {
			return line("7 " + strconv.Quote(s))
		}
		if _, ok := p.I.(float64); ok {
			return false
		}
		return line(fmt.Sprintf("%d %d", p.D, p.I))
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			if path != "" {
				name = path + "." + name
			}
			if !write(b, name, v.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Slice:
		if v.Len() == 0 {
			return line("[]")
		}
		for i := range v.Len() {
			if !write(b, fmt.Sprintf("%s[%d]", path, i), v.Index(i)) {
				return false
			}
		}
		return true
	case reflect.String:
		s := v.String()
		if body, ended := strings.CutSuffix(s, "\n"); strings.Contains(s, "\n") && !strings.Contains(s, "\r") {
			mark := "|"
			if !ended {
				mark = "|-"
			}
			return line(mark + "\n\t" + strings.ReplaceAll(body, "\n", "\n\t"))
		}
		return line(strconv.Quote(s))
	case reflect.Int32, reflect.Int64, reflect.Int8, reflect.Int16:
		return line(strconv.FormatInt(v.Int(), 10))
	case reflect.Uint32, reflect.Uint64, reflect.Uint8, reflect.Uint16:
		return line(strconv.FormatUint(v.Uint(), 10))
	}
	return false
}

// Parse reads the text of a conversation.
func Parse(text string) ([]Message, error) {
	var ms []Message
	lines := strings.SplitAfter(text, "\n")
	for i := 0; i < len(lines); {
		line := strings.TrimRight(lines[i], "\n")
		if line == "" {
			i++
			continue
		}
		m, err := parseHead(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		from := i + 1
		for i++; i < len(lines) && !strings.HasPrefix(lines[i], "> ") && !strings.HasPrefix(lines[i], "< ") && !strings.HasPrefix(lines[i], "! "); i++ {
		}
		if err := m.parseFields(lines[from:i]); err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", from, line, err)
		}
		ms = append(ms, m)
	}
	return ms, nil
}

func parseHead(line string) (Message, error) {
	for kind, text := range directives {
		if line == text {
			return Message{Kind: kind}, nil
		}
	}
	words := strings.Fields(line)
	m := Message{}
	switch {
	case len(words) == 2 && words[0] == ">":
	case len(words) == 2 && words[0] == "<":
		m.Kind = Reply
	case len(words) == 3 && words[0] == "<" && words[2] == "error":
		m.Kind = Error
	default:
		return m, fmt.Errorf("%q is no message", line)
	}
	m.Proc = words[1]
	_, err := m.layout()
	return m, err
}

// parseFields reads the lines of the payload.
func (m *Message) parseFields(lines []string) error {
	var v reflect.Value
	if m.Proc != "" {
		t, err := m.layout()
		if err != nil {
			return err
		}
		if t != nil {
			v = reflect.New(t).Elem()
		}
	}
	for i := 0; i < len(lines); i++ {
		line := strings.TrimRight(lines[i], "\n")
		if line == "" {
			continue
		}
		path, text, ok := strings.Cut(line, " = ")
		switch {
		case !ok:
			return fmt.Errorf("%q is no field", line)
		case path == "hex":
			b, err := hex.DecodeString(text)
			m.Payload = b
			return err
		case text == "|" || text == "|-":
			var block strings.Builder
			for i+1 < len(lines) && strings.HasPrefix(lines[i+1], "\t") {
				i++
				block.WriteString(lines[i][1:])
			}
			text = block.String()
			if strings.HasSuffix(line, "-") {
				text = strings.TrimSuffix(text, "\n")
			}
			text = strconv.Quote(text)
		}
		if !v.IsValid() {
			return errors.New("the message has no payload")
		}
		if err := set(v, path, text); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if !v.IsValid() {
		return nil
	}
	b, err := xdr.Encode(v.Interface())
	m.Payload = b
	return err
}

var step = regexp.MustCompile(`^\.?([A-Za-z0-9_]+)|^\[([0-9]{1,6})\]`)

// set puts what the text says into the field of v at the path.
func set(v reflect.Value, path, text string) error {
	for path != "" {
		s := step.FindStringSubmatch(path)
		if s == nil {
			return errors.New("no such field")
		}
		path = path[len(s[0]):]
		if s[2] != "" {
			i, _ := strconv.Atoi(s[2])
			if v.Kind() != reflect.Slice || i > v.Len() {
				return errors.New("no such element")
			}
			if i == v.Len() {
				v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
			}
			v = v.Index(i)
			continue
		}
		if v.Kind() != reflect.Struct {
			return errors.New("no such field")
		}
		if v = v.FieldByName(s[1]); !v.IsValid() {
			return errors.New("no such field")
		}
	}
	return setValue(v, text)
}

func setValue(v reflect.Value, text string) error {
	switch {
	case v.Type() == uuidType:
		b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
		if err != nil || len(b) != 16 {
			return fmt.Errorf("%q is no UUID", text)
		}
		reflect.Copy(v, reflect.ValueOf(b))
		return nil
	case v.Type() == paramType:
		return setParam(v, text)
	}
	switch v.Kind() {
	case reflect.Slice:
		if text != "[]" {
			return fmt.Errorf("%q is no list", text)
		}
		return nil
	case reflect.String:
		s, err := strconv.Unquote(text)
		v.SetString(s)
		return err
	case reflect.Int32, reflect.Int64, reflect.Int8, reflect.Int16:
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		v.SetInt(n)
		return err
	case reflect.Uint32, reflect.Uint64, reflect.Uint8, reflect.Uint16:
		n, err := strconv.ParseUint(text, 10, v.Type().Bits())
		v.SetUint(n)
		return err
	}
	return fmt.Errorf("a %s has no text", v.Type())
}

func setParam(v reflect.Value, text string) error {
	kind, text, _ := strings.Cut(text, " ")
	var value any
	var err error
	var n uint64
	var i int64
	switch kind {
	case "1", "6":
		i, err = strconv.ParseInt(text, 10, 32)
		value = int32(i)
	case "2":
		n, err = strconv.ParseUint(text, 10, 32)
		value = uint32(n)
	case "3":
		value, err = strconv.ParseInt(text, 10, 64)
	case "4":
		value, err = strconv.ParseUint(text, 10, 64)
	case "7":
		value, err = strconv.Unquote(text)
	default:
		return fmt.Errorf("no parameter of type %q", kind)
	}
	if err != nil {
		return err
	}
	d, _ := strconv.Atoi(kind)
	v.Set(reflect.ValueOf(libvirt.TypedParamValue{D: uint32(d), I: value}))
	return nil
}
