// Package reread keeps small files as they were read, and tells when they have
// to be read again.
package reread

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// File is one state of a file. The zero File has to be read.
type File struct {
	Data []byte // what it held; who has parsed it may drop it
	Err  error  // why it could not be read

	path    string
	info    fs.FileInfo // nil: could not be read
	settled bool
}

// Read reads a regular file of at most limit bytes.
func Read(path string, limit int64) File {
	fail := func(err error) File { return File{path: path, Err: err} }
	info, err := os.Stat(path)
	if err != nil {
		return fail(err)
	}
	// Opening a FIFO would wait for its writer.
	if !info.Mode().IsRegular() {
		return fail(fmt.Errorf("%s is not a regular file", path))
	}
	f, err := os.Open(path)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	// The state is taken from the open file before it is read: a later change
	// then shows as a difference.
	if info, err = f.Stat(); err != nil {
		return fail(err)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return fail(err)
	}
	if int64(len(data)) > limit {
		return fail(fmt.Errorf("%s is over %d bytes", path, limit))
	}
	// A second change within the file system's time grain would leave no trace.
	// A file changed just now is therefore read again with the next request.
	age := time.Since(info.ModTime())
	return File{Data: data, path: path, info: info, settled: age > time.Second || age < -time.Second}
}

// Fresh says whether the file is still the one that was read: same inode, size
// and time of change. One that could not be read never is.
func (f *File) Fresh() bool {
	if f.info == nil || !f.settled {
		return false
	}
	info, err := os.Stat(f.path)
	return err == nil && os.SameFile(info, f.info) &&
		info.Size() == f.info.Size() && info.ModTime().Equal(f.info.ModTime())
}
