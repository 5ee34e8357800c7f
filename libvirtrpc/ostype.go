package libvirtrpc

import (
	"context"
	"encoding/binary"
	"sync"

	"github.com/digitalocean/go-libvirt"

	"virtgate/libvirtrpc/wire"
)

// definitions remembers what a domain's definition says: it does not change while
// the definition stands, and asking for it costs a call for each domain. A
// define or undefine event drops it, and the end or beginning of a connection
// drops everything, because events may have been missed.
type definitions[V any] struct {
	mu  sync.RWMutex
	gen uint64 // counts drops, so that an answer from before one is not kept
	m   map[UUID]V
}

func (o *definitions[V]) get(u UUID) (v V, gen uint64, ok bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	v, ok = o.m[u]
	return v, o.gen, ok
}

func (o *definitions[V]) put(u UUID, v V, gen uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gen != gen {
		return
	}
	if o.m == nil {
		o.m = map[UUID]V{}
	}
	o.m[u] = v
}

func (o *definitions[V]) drop(u UUID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.m[u]; ok {
		o.gen++
		delete(o.m, u)
	}
}

func (o *definitions[V]) clear() {
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
func (c *Client) lifecycleEvent(f wire.Frame) {
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
		c.redefined(u)
	}
}

// redefined drops what is remembered of a definition.
func (c *Client) redefined(u UUID) {
	c.osTypes.drop(u)
	c.descriptions.drop(u)
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
