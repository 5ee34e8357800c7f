package domainxml

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"virtgate/libvirtrpc"
)

// Identity is what makes a description one domain and not another.
type Identity struct {
	Name string
	UUID *libvirtrpc.UUID // nil: libvirt chooses one
}

// maxDepth is how deep libvirt's parser follows elements (xmlParserMaxDepth of
// libxml2).
const maxDepth = 256

// maxText bounds a name or UUID that comes in many pieces, in bytes.
const maxText = 1024

// declaration is an XML declaration that says nothing but what holds anyway.
// Other encodings would be decoded by libvirt and not here.
var declaration = regexp.MustCompile(`^version\s*=\s*(?:"1\.0"|'1\.0')(?:\s+encoding\s*=\s*(?:"(?i:utf-8)"|'(?i:utf-8)'))?(?:\s+standalone\s*=\s*(?:"(?:yes|no)"|'(?:yes|no)'))?\s*$`)

// ReadIdentity finds in domain XML what libvirt will find there: it reads
// "string(./name[1])" and "string(./uuid[1])", the first child of that name
// that is in no namespace, with the text of everything within, and forgives
// UUIDs a lot. Whoever decides by one reading what libvirt does by another can
// be led to replace a domain, so what could be read in two ways is refused: a
// second name or UUID, elements within them, other spellings of a UUID, other
// encodings, and a document type, with which XML also expands to any size.
// Everything else about the XML is libvirt's to judge.
func ReadIdentity(doc string) (Identity, error) {
	var id Identity
	if !Text(doc) {
		return id, errors.New("not XML: it holds a character that XML has not")
	}
	found := map[string]string{}
	dec := xml.NewDecoder(strings.NewReader(doc))
	depth := 0
	within := "" // the name or UUID that is being read
	for {
		tok, err := dec.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return id, fmt.Errorf("not XML: %w", err)
		}
		switch t := tok.(type) {
		case xml.Directive:
			return id, errors.New("a document type declaration is not accepted")
		case xml.ProcInst:
			if strings.EqualFold(t.Target, "xml") && !declaration.Match(t.Inst) {
				return id, errors.New("the XML declaration has to be version 1.0, in UTF-8 or without an encoding")
			}
		case xml.CharData:
			if within == "" {
				break
			}
			if found[within] += string(t); len(found[within]) > maxText {
				return id, fmt.Errorf("<%s> is too long", within)
			}
		case xml.EndElement:
			depth--
			within = ""
		case xml.StartElement:
			depth++
			switch {
			case within != "":
				return id, fmt.Errorf("<%s> has text only, no elements", within)
			case depth > maxDepth:
				return id, fmt.Errorf("the XML is nested deeper than %d", maxDepth)
			case depth == 1 && t.Name.Local != "domain":
				return id, fmt.Errorf("the XML is not a <domain> but a <%s>", t.Name.Local)
			case depth == 2 && t.Name.Space == "" && (t.Name.Local == "name" || t.Name.Local == "uuid"):
				within = t.Name.Local
				if _, twice := found[within]; twice {
					return id, fmt.Errorf("<%s> is there twice", within)
				}
				found[within] = ""
			}
		}
	}
	id.Name = found["name"]
	if text := found["uuid"]; text != "" { // libvirt takes an empty one as absent
		u, err := libvirtrpc.ParseUUID(strings.Trim(text, " \t\r\n"))
		if err != nil {
			return id, fmt.Errorf("<uuid>: %w", err)
		}
		id.UUID = &u
	}
	return id, nil
}

// Text tells whether XML can hold the text as it is: XML has no control
// characters beside tab and the ends of lines, and no U+FFFE and U+FFFF.
func Text(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff
	})
}
