package server

import (
	"encoding/json"
	"strings"
	"testing"

	"virtgate/auth"
)

// XML from which libvirt could read another name or UUID than this server never
// gets to libvirt: a definition would be replaced.
func TestCreateAmbiguousXML(t *testing.T) {
	s, calls := onDaemon(t, nil)
	for _, doc := range []string{
		`<domain type='test'><name>victim</name><name>other</name></domain>`,
		`<domain type='test'><name>vic<b>tim</b></name></domain>`,
		`<domain type='test'><name>a</name><uuid>6695 eb01f6a4830479aa97f2502e193f</uuid></domain>`,
		`<?xml version='1.0' encoding ='UTF-7'?><domain type='test'><name>+AHY-ictim</name></domain>`,
	} {
		text, _ := json.Marshal(doc)
		for _, body := range []string{string(text), "[" + string(text) + "]"} {
			w := ask(s, "POST", "/libvirt/domains", body)
			if w.Code != 400 || !strings.Contains(w.Body.String(), `"code":105`) || calls.Load() != 0 {
				t.Errorf("%s: %d %s, %d calls", body, w.Code, w.Body, calls.Load())
			}
		}
	}
}

// What XML cannot hold would become something else on the way to libvirt, which
// is asked for the name that the client gave.
func TestCreateTextThatXMLHasNot(t *testing.T) {
	s, calls := onDaemon(t, nil)
	for _, body := range []string{
		`{"name":"a\uffff","os":"Linux"}`,
		`{"name":"a","os":"Linux","description":"\u0001"}`,
		`{"name":"a","os":"Linux","disks":[{"path":"/a\u0008"}]}`,
	} {
		if w := ask(s, "POST", "/libvirt/domains", body); w.Code != 400 || !strings.Contains(w.Body.String(), `"code":105`) {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	if w := ask(s, "PATCH", "/libvirt/domains/by-name/a", `{"name":"b\ufffe"}`); w.Code != 400 || !strings.Contains(w.Body.String(), `"code":103`) {
		t.Errorf("rename: %d %s", w.Code, w.Body)
	}
	if calls.Load() != 0 {
		t.Errorf("%d calls", calls.Load())
	}
}

// A description that fits into a body and not, escaped, into a libvirt message
// would end the connection with everything on it.
func TestCreateTooMuchXML(t *testing.T) {
	s, calls := onDaemon(t, func(o *Options, _ *auth.Config) { o.BodyLimit = 16 << 20 })
	for what, body := range map[string]string{
		"escaped": `{"name":"a","os":"Linux","description":"` + strings.Repeat("&", 1<<20) + `"}`,
		"plain":   `"` + strings.Repeat(" ", maxXML) + `<domain><name>a</name></domain>"`,
	} {
		calls.Store(0)
		// An object costs the question what the host can run.
		if w := ask(s, "POST", "/libvirt/domains", body); w.Code != 413 || !strings.Contains(w.Body.String(), `"code":15`) || calls.Load() > 1 {
			t.Errorf("%s: %d %.200s, %d calls", what, w.Code, w.Body, calls.Load())
		}
	}
}
