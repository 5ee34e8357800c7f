package openapi

import (
	"encoding/json"
	"strings"
	"testing"
)

type part struct {
	Kind string `json:"kind,omitempty" enum:"a,b" default:"a" about:"which kind"`
}

type whole struct {
	Name  string   `json:"name"`
	Parts []part   `json:"parts,omitempty" about:"its parts"`
	First *part    `json:"first" about:"the first part"`
	Count *uint    `json:"count,omitempty" minimum:"1" maximum:"9"`
	Words []string `json:"words" enum:"x,y"`
}

// A schema follows from a type, structs are components, and a place can say
// what a component means there.
func TestOf(t *testing.T) {
	var c Components
	if ref := c.Use(Of[whole]()).Ref; ref != "#/components/schemas/Whole" {
		t.Error(ref)
	}
	got, err := json.Marshal(c.Schemas)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"Whole":{"type":"object","properties":{"name":{"type":"string"},` +
		`"parts":{"type":"array","description":"its parts","items":{"$ref":"#/components/schemas/Part"}},` +
		`"first":{"$ref":"#/components/schemas/Part","description":"the first part"},` +
		`"count":{"type":"integer","format":"int64","minimum":1,"maximum":9},` +
		`"words":{"type":"array","items":{"type":"string","enum":["x","y"]}}},` +
		`"required":["name","first","words"],"additionalProperties":false},` +
		`"Part":{"type":"object","properties":{"kind":{"type":"string","description":"which kind","enum":["a","b"],"default":"a"}},"additionalProperties":false}}`
	if string(got) != want {
		t.Errorf(" got %s\nwant %s", got, want)
	}
}

// Two things cannot have one name.
func TestUseRefusesTwo(t *testing.T) {
	defer func() {
		if p := recover(); p == nil || !strings.Contains(p.(string), "Thing") {
			t.Errorf("%v", p)
		}
	}()
	var c Components
	c.Use(Text().Named("Thing", "one"))
	c.Use(Text().Named("Thing", "one")) // the same again
	c.Use(Text().Named("Thing", "another"))
}

// What YAML would read as something else than text stays text.
func TestYAML(t *testing.T) {
	d := Document{OpenAPI: "3.1", Info: Info{Title: "yes", Version: "1.10", Description: "two\nlines", Contact: map[string]string{"null": "~"}}}
	b, err := d.YAML()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`openapi: "3.1"`, `title: "yes"`, `version: "1.10"`, "description: |-\n    two\n    lines\n", `"null": "~"`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s in\n%s", want, b)
		}
	}
}
