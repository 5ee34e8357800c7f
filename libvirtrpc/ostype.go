package libvirtrpc

import (
	"context"
	"encoding/binary"
	"sync"

	"github.com/digitalocean/go-libvirt"

	"virtgate/libvirtrpc/wire"
)

// osTypes remembers the OS type of each definition: it never changes while the
// definition stands, and asking for it costs a call for each domain. A define
// or undefine event drops it, and the end or beginning of a connection drops
// everything, because events may have been missed.
type osTypes struct {
	mu  sync.RWMutex
	gen uint64 // counts drops, so that an answer from before one is not kept
	m   map[UUID]string
}

func (o *osTypes) get(u UUID) (osType string, gen uint64, ok bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	osType, ok = o.m[u]
	return osType, o.gen, ok
}

func (o *osTypes) put(u UUID, osType string, gen uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gen != gen {
		return
	}
	if o.m == nil {
		o.m = map[UUID]string{}
	}
	o.m[u] = osType
}

func (o *osTypes) drop(u UUID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.m[u]; ok {
		o.gen++
		delete(o.m, u)
	}
}

func (o *osTypes) clear() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gen++
	o.m = nil
}

// procLifecycle is REMOTE_PROC_DOMAIN_EVENT_CALLBACK_LIFECYCLE of
// remote_protocol.x.
const procLifecycle = 318

// event takes the lifecycle event of a domain:
// {callbackID, dom{name, uuid, id}, event, detail}.
func (o *osTypes) event(f wire.Frame) {
	if f.Procedure != procLifecycle {
		return
	}
	b := f.Payload
	if len(b) < 8 {
		return
	}
	n := (int(binary.BigEndian.Uint32(b[4:])) + 3) &^ 3
	if n < 0 || len(b) < 8+n+16+12 {
		return
	}
	var u UUID
	copy(u[:], b[8+n:])
	switch libvirt.DomainEventType(binary.BigEndian.Uint32(b[8+n+16+4:])) {
	case libvirt.DomainEventDefined, libvirt.DomainEventUndefined, libvirt.DomainEventStarted, libvirt.DomainEventStopped:
		o.drop(u)
	}
}

func (c *Client) osType(ctx context.Context, d *Domain) error {
	osType, gen, ok := c.osTypes.get(d.UUID)
	if ok {
		d.OSType = osType
		return nil
	}
	osType, err := call(ctx, c, op{name: "DomainGetOSType", domain: d.UUID}, func(lv *libvirt.Libvirt) (string, error) {
		return lv.DomainGetOsType(handle(d.UUID))
	})
	if err != nil {
		return err
	}
	if !c.pool.noEvents.Load() {
		c.osTypes.put(d.UUID, osType, gen)
	}
	d.OSType = osType
	return nil
}
