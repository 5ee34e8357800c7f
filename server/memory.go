package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"regexp"
	"strconv"
	"strings"

	"virtgate/server/openapi"
)

var memoryText = regexp.MustCompile(`^([0-9]{1,20}) ?([A-Za-z]*)$`)

// memoryUnits are bytes, by libvirt's names for units of memory
// (virScaleInteger): KiB is 1024, KB is 1000.
var memoryUnits = map[string]uint64{
	"b": 1, "byte": 1, "bytes": 1,
	"k": 1 << 10, "kib": 1 << 10, "kb": 1e3,
	"m": 1 << 20, "mib": 1 << 20, "mb": 1e6,
	"g": 1 << 30, "gib": 1 << 30, "gb": 1e9,
	"t": 1 << 40, "tib": 1 << 40, "tb": 1e12,
}

// kib is an amount of memory in a request, more than nothing.
type kib uint64

func (k *kib) UnmarshalJSON(raw []byte) error {
	n, err := parseKiB(raw)
	if err == nil && n == 0 {
		err = errors.New("memory is more than nothing")
	}
	*k = kib(n)
	return err
}

// Schema is what parseKiB reads.
func (kib) Schema() *openapi.Schema {
	text := &openapi.Schema{Type: "string", Pattern: memoryText.String(), Examples: []any{"2GiB"}}
	return openapi.Either(
		openapi.Number(64, 1).About("KiB"),
		text.About("with a unit: KiB, MiB, GiB, TiB (KB, MB … are powers of 1000), in any letter case")).
		Named("Memory", "An amount of memory.")
}

// parseKiB reads an amount of memory: a number of KiB, or a string with a unit,
// "2GiB". Fractions of a KiB are rounded up.
func parseKiB(raw json.RawMessage) (uint64, error) {
	if len(raw) == 0 || raw[0] != '"' {
		n, err := strconv.ParseUint(string(raw), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("memory is a number of KiB from 0 to 2^64-1, or a string such as \"2GiB\"")
		}
		return n, nil
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return 0, err
	}
	m := memoryText.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return 0, fmt.Errorf("memory %s: want a number and a unit, such as \"2GiB\"", printable(text))
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("memory %s is too large", printable(text))
	}
	unit := strings.ToLower(m[2])
	if unit == "" {
		return n, nil
	}
	scale, ok := memoryUnits[unit]
	if !ok {
		return 0, fmt.Errorf("memory %s: no unit %s; there are KiB, MiB, GiB, TiB", printable(text), printable(m[2]))
	}
	hi, lo := bits.Mul64(n, scale)
	if hi != 0 {
		return 0, fmt.Errorf("memory %s is too large", printable(text))
	}
	kib := lo / 1024
	if lo%1024 != 0 {
		kib++
	}
	return kib, nil
}
