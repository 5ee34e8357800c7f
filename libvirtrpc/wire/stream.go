package wire

import (
	"errors"
	"fmt"
	"slices"
)

// maxHeld is how many bytes of stream data may wait for replies. A daemon that
// sends data before the reply is ahead by a frame or two of 256 KiB.
const maxHeld = 64 << 20

const remoteProgram = 0x20008086

// opensStream tells whether a call opens a stream. The list is remote_protocol.x
// of libvirt, @readstream and @writestream; numbers there are never changed. It
// must be known at the call: after a reply, a stream may be silent for hours,
// and remembering every answered call that long is not possible.
func opensStream(h Header) bool {
	if h.Program != remoteProgram {
		return false
	}
	switch h.Procedure {
	case 148, // DOMAIN_MIGRATE_PREPARE_TUNNEL
		201, // DOMAIN_OPEN_CONSOLE
		208, // STORAGE_VOL_UPLOAD
		209, // STORAGE_VOL_DOWNLOAD
		211, // DOMAIN_SCREENSHOT
		215, // DOMAIN_MIGRATE_PREPARE_TUNNEL3
		296, // DOMAIN_OPEN_CHANNEL
		322: // DOMAIN_MIGRATE_PREPARE_TUNNEL3_PARAMS
		return true
	}
	return false
}

// stream is the state of a stream from the call that opens it to its end.
//
// libvirt's way to end one (src/remote/remote_daemon_stream.c): the side without
// more data says so (the daemon with an empty StatusContinue); the client sends
// FINISH, or at any time ABORT; the daemon confirms with StatusOK, or says with
// StatusError what went wrong, and only then lets go of the file. The library
// sends FINISH after an upload, but nothing after a download.
type stream struct {
	call    call
	replied bool
	eof     bool     // the daemon has no more data
	ending  bool     // FINISH or ABORT was sent
	abort   bool     // ABORT was asked for
	held    [][]byte // frames that came before the reply
	sent    int      // data frames from us
}

// Streams returns the serials of the open streams, those whose call has no
// reply yet included, in ascending order. It is for Abort: the library does not
// tell the serials of its calls.
func (c *Conn) Streams() []int32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	serials := make([]int32, 0, len(c.streams))
	for s := range c.streams {
		serials = append(serials, s)
	}
	slices.Sort(serials)
	return serials
}

// Abort asks the daemon to drop a stream; before the reply to the call that
// opens it, as soon as that is there. It does not wait. What the daemon sent
// until it heard of it still reaches the library, then the confirmation, which
// the library takes for a good end: the caller must know that it aborted. A
// serial without an open stream is ignored.
func (c *Conn) Abort(serial int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.streams[serial]
	if st == nil || st.abort {
		return
	}
	st.abort = true
	if st.replied {
		c.end(serial, st, StatusError)
	}
}

// end queues FINISH (StatusOK) or ABORT (StatusError). c.mu is held.
func (c *Conn) end(serial int32, st *stream, status uint32) {
	st.ending = true
	c.queueFrame(Frame{Header: Header{
		Program:   st.call.program,
		Version:   st.call.version,
		Procedure: st.call.procedure,
		Type:      TypeStream,
		Serial:    serial,
		Status:    status,
	}})
}

// streamSent notes a stream frame from the library.
func (c *Conn) streamSent(h Header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.streams[h.Serial]
	if st == nil {
		return // it has ended meanwhile; libvirtd ignores the frame
	}
	if h.Status == StatusContinue {
		st.sent++
		c.unacked++
	} else {
		st.ending = true
	}
}

// streamReplied releases what came before the reply to the call that opens the
// stream, behind that reply. c.mu and c.rmu are held.
func (c *Conn) streamReplied(h Header, st *stream) error {
	held := st.held
	for _, frame := range held {
		c.held -= len(frame)
	}
	st.held = nil
	if h.Status != StatusOK {
		c.forget(h.Serial, st) // there is no stream
		return nil
	}
	st.replied = true
	if st.abort {
		c.end(h.Serial, st, StatusError)
	}
	for _, frame := range held {
		if c.streams[h.Serial] == nil {
			break // what follows the end is for nobody
		}
		frame, err := c.streamData(parseHeader(frame), st, frame)
		if err != nil {
			return err
		}
		if frame != nil {
			c.pending = append(c.pending, frame)
		}
	}
	return nil
}

// streamFrame is incoming for stream frames. c.rmu is held.
func (c *Conn) streamFrame(h Header, frame []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.streams[h.Serial]
	if st == nil {
		// Not a stream, or one that has ended. To the library each frame is a
		// reply, see there.
		return nil, nil
	}
	if got := callOf(h); got != st.call {
		return nil, fmt.Errorf("stream of %v has a frame of %v", st.call, got)
	}
	if st.replied {
		return c.streamData(h, st, frame)
	}
	// The daemon sometimes sends the first data before the reply to the call.
	// The library would take it for the reply.
	if c.held += len(frame); c.held > maxHeld {
		return nil, fmt.Errorf("over %d bytes of stream data before the reply", maxHeld)
	}
	st.held = append(st.held, slices.Clone(frame))
	return nil, nil
}

// streamData lets through the frames of an open stream. c.mu is held.
func (c *Conn) streamData(h Header, st *stream, frame []byte) ([]byte, error) {
	empty := len(frame) == HeaderLen
	switch h.Status {
	case StatusContinue:
		switch {
		case st.eof && !empty:
			return nil, errors.New("stream data after the end of the stream")
		case !empty:
			return frame, nil
		}
		// The end, but the library learns it from the confirmation: that tells
		// whether all went well, and when it is there the daemon has let go of
		// the file.
		if st.eof = true; !st.ending {
			c.end(h.Serial, st, StatusOK)
		}
		return nil, nil
	case StatusOK:
		if !empty {
			return nil, errors.New("stream data in the frame that ends the stream")
		}
		if !st.ending {
			c.end(h.Serial, st, StatusOK)
		}
		c.forget(h.Serial, st)
		return frame, nil
	case StatusError:
		c.forget(h.Serial, st)
		return fixErrorFrame(h, frame)
	default:
		return nil, fmt.Errorf("stream frame with status %d", h.Status)
	}
}

// forget drops a stream that is over. c.mu is held.
func (c *Conn) forget(serial int32, st *stream) {
	c.unacked -= st.sent
	delete(c.streams, serial)
}
