package envelope

import (
	"bytes"
	"compress/gzip"
	"sync"
)

// gzips are writers for reuse: each has about a MiB of tables. One is taken
// only while bytes are compressed, never while a request waits.
var gzips = sync.Pool{New: func() any {
	z, err := gzip.NewWriterLevel(nil, gzip.BestSpeed) // libvirt's XML shrinks to a tenth at any level
	if err != nil {
		panic("envelope: " + err.Error())
	}
	return z
}}

// Gzip is Bytes, compressed. After Encode it is made once for all requests that
// the response answers.
func (r *Response) Gzip() []byte {
	if r.encoded == nil {
		return compress(r.Bytes())
	}
	r.zip.Do(func() { r.zipped = compress(r.encoded) })
	return r.zipped
}

func compress(b []byte) []byte {
	z := gzips.Get().(*gzip.Writer)
	defer gzips.Put(z)
	var out bytes.Buffer
	out.Grow(len(b)/4 + 64)
	z.Reset(&out)
	z.Write(b) // a bytes.Buffer takes everything
	z.Close()
	z.Reset(nil)
	return out.Bytes()
}
