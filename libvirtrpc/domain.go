package libvirtrpc

import (
	"context"
	"encoding/xml"
	"errors"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/digitalocean/go-libvirt"
	"golang.org/x/sync/errgroup"
)

// State is a domain's state by libvirt's number (virDomainState).
type State uint8

const (
	NoState State = iota
	Running
	Blocked
	Paused
	ShuttingDown
	Shutoff
	Crashed
	PMSuspended
)

// Fields says which parts of a Domain are wanted beyond those that every
// lookup brings (Name, UUID, ID). Each costs the calls named beside it.
type Fields uint32

const (
	FieldState       Fields = 1 << iota // none with FieldInfo; else filtered lists, or virDomainGetState
	FieldInfo                           // MemoryKiB, MaxMemoryKiB, VCPUs, CPUTimeNs: virDomainGetInfo
	FieldOSType                         // virDomainGetOSType, once for each definition
	FieldPersistent                     // a filtered list, or virDomainIsPersistent
	FieldAutostart                      // a filtered list, or virDomainGetAutostart
	FieldManagedSave                    // a filtered list, or virDomainHasManagedSaveImage
	FieldHasSnapshot                    // a filtered list, or virDomainSnapshotNum
	FieldReason                         // virDomainGetState; single domains only
	FieldText                           // Title, Description: two of virDomainGetMetadata; single domains only
)

// Domain is what libvirt says of one domain. Fields that were not asked for
// are zero.
type Domain struct {
	Name         string
	UUID         UUID
	ID           int32 // -1 when inactive
	State        State
	Reason       int32 // virDomain*Reason of the state
	OSType       string
	MemoryKiB    uint64
	MaxMemoryKiB uint64
	VCPUs        uint16
	CPUTimeNs    uint64 // zero for inactive domains
	Persistent   bool
	Autostart    bool
	ManagedSave  bool
	HasSnapshot  bool
	Title        string
	Description  string
}

// Active tells whether the domain has a running process.
func (d *Domain) Active() bool { return d.ID >= 0 }

// Ref names one domain in one of three ways.
type Ref struct {
	name string
	uuid UUID
	id   int32
	by   byte
}

// ByName refers to the domain with that name.
func ByName(name string) Ref { return Ref{by: 'n', name: name} }

// ByUUID refers to the domain with that UUID.
func ByUUID(u UUID) Ref { return Ref{by: 'u', uuid: u} }

// ByID refers to the active domain with that number.
func ByID(id int32) Ref { return Ref{by: 'i', id: id} }

// handle is the domain as libvirt's calls want it: its UUID is enough.
func handle(u UUID) libvirt.Domain { return libvirt.Domain{UUID: libvirt.UUID(u), ID: -1} }

func fromHandle(d libvirt.Domain) Domain {
	return Domain{Name: d.Name, UUID: UUID(d.UUID), ID: d.ID}
}

// Lookup finds a domain (virDomainLookupByName, ByUUID, ByID). A domain that is
// not there is NotFound.
func (c *Client) Lookup(ctx context.Context, r Ref) (Domain, error) {
	var d libvirt.Domain
	var err error
	switch r.by {
	case 'n':
		d, err = call(ctx, c, op{name: "DomainLookupByName"}, func(lv *libvirt.Libvirt) (libvirt.Domain, error) {
			return lv.DomainLookupByName(r.name)
		})
	case 'u':
		d, err = call(ctx, c, op{name: "DomainLookupByUUID", domain: r.uuid}, func(lv *libvirt.Libvirt) (libvirt.Domain, error) {
			return lv.DomainLookupByUUID(libvirt.UUID(r.uuid))
		})
	case 'i':
		d, err = call(ctx, c, op{name: "DomainLookupByID"}, func(lv *libvirt.Libvirt) (libvirt.Domain, error) {
			return lv.DomainLookupByID(r.id)
		})
	}
	return fromHandle(d), err
}

// GetDomain finds a domain and fills in the fields wanted. None of its calls
// waits for a QEMU monitor.
func (c *Client) GetDomain(ctx context.Context, r Ref, want Fields) (Domain, error) {
	d, err := c.Lookup(ctx, r)
	if err != nil {
		return d, err
	}
	var parts []func() error
	add := func(f Fields, part func(context.Context, *Domain) error) {
		if want&f != 0 {
			parts = append(parts, func() error { return part(ctx, &d) })
		}
	}
	if want&FieldInfo != 0 {
		add(FieldInfo, c.info)
		add(FieldReason, c.reason)
	} else {
		add(FieldState|FieldReason, c.stateAndReason)
	}
	add(FieldOSType, c.osType)
	add(FieldPersistent, c.persistent)
	add(FieldAutostart, c.autostart)
	add(FieldManagedSave, c.managedSave)
	add(FieldHasSnapshot, c.hasSnapshot)
	add(FieldText, c.text(libvirt.DomainMetadataTitle, func(d *Domain) *string { return &d.Title }))
	add(FieldText, c.text(libvirt.DomainMetadataDescription, func(d *Domain) *string { return &d.Description }))
	err = each(len(parts), c.opts.Pipeline, func(i int) error { return parts[i]() })
	return d, err
}

func (c *Client) info(ctx context.Context, d *Domain) error {
	type info struct {
		state     uint8
		max, mem  uint64
		vcpus     uint16
		cpuTimeNs uint64
	}
	v, err := call(ctx, c, op{name: "DomainGetInfo", domain: d.UUID}, func(lv *libvirt.Libvirt) (i info, err error) {
		i.state, i.max, i.mem, i.vcpus, i.cpuTimeNs, err = lv.DomainGetInfo(handle(d.UUID))
		return i, err
	})
	if err == nil {
		d.State, d.MaxMemoryKiB, d.MemoryKiB, d.VCPUs, d.CPUTimeNs = State(v.state), v.max, v.mem, v.vcpus, v.cpuTimeNs
	}
	return err
}

// GetState asks for a domain's state and the reason for it (virDomainGetState).
func (c *Client) GetState(ctx context.Context, u UUID) (State, int32, error) {
	v, err := call(ctx, c, op{name: "DomainGetState", domain: u}, func(lv *libvirt.Libvirt) (v [2]int32, err error) {
		v[0], v[1], err = lv.DomainGetState(handle(u), 0)
		return v, err
	})
	return State(v[0]), v[1], err
}

func (c *Client) stateAndReason(ctx context.Context, d *Domain) (err error) {
	d.State, d.Reason, err = c.GetState(ctx, d.UUID)
	return err
}

func (c *Client) reason(ctx context.Context, d *Domain) (err error) {
	_, d.Reason, err = c.GetState(ctx, d.UUID)
	return err
}

// flag makes a call that answers with a number that stands for yes or no.
func (c *Client) flag(ctx context.Context, name string, u UUID, to *bool, fn func(*libvirt.Libvirt) (int32, error)) error {
	v, err := call(ctx, c, op{name: name, domain: u}, fn)
	*to = v != 0
	return err
}

func (c *Client) persistent(ctx context.Context, d *Domain) error {
	return c.flag(ctx, "DomainIsPersistent", d.UUID, &d.Persistent, func(lv *libvirt.Libvirt) (int32, error) {
		return lv.DomainIsPersistent(handle(d.UUID))
	})
}

func (c *Client) autostart(ctx context.Context, d *Domain) error {
	return c.flag(ctx, "DomainGetAutostart", d.UUID, &d.Autostart, func(lv *libvirt.Libvirt) (int32, error) {
		return lv.DomainGetAutostart(handle(d.UUID))
	})
}

func (c *Client) managedSave(ctx context.Context, d *Domain) error {
	return c.flag(ctx, "DomainHasManagedSaveImage", d.UUID, &d.ManagedSave, func(lv *libvirt.Libvirt) (int32, error) {
		return lv.DomainHasManagedSaveImage(handle(d.UUID), 0)
	})
}

func (c *Client) hasSnapshot(ctx context.Context, d *Domain) error {
	return c.flag(ctx, "DomainSnapshotNum", d.UUID, &d.HasSnapshot, func(lv *libvirt.Libvirt) (int32, error) {
		return lv.DomainSnapshotNum(handle(d.UUID), 0)
	})
}

// text is a part of GetDomain that reads the title or the description. The XML
// has both, but newer daemons ask QEMU before they write the XML of an active
// domain (libvirt 11.3 does, 9.0 does not), and a hung one never answers.
func (c *Client) text(which libvirt.DomainMetadataType, to func(*Domain) *string) func(context.Context, *Domain) error {
	return func(ctx context.Context, d *Domain) error {
		v, err := call(ctx, c, op{name: "DomainGetMetadata", domain: d.UUID}, func(lv *libvirt.Libvirt) (string, error) {
			return lv.DomainGetMetadata(handle(d.UUID), int32(which), nil, libvirt.DomainAffectCurrent)
		})
		if e := (*Error)(nil); errors.As(err, &e) && e.Code == int(libvirt.ErrNoDomainMetadata) {
			return nil // it has none
		}
		*to(d) = v
		return err
	}
}

// XMLFlags choose what DomainXML shows, by libvirt's numbers (virDomainXMLFlags).
type XMLFlags uint32

const (
	XMLSecure     = XMLFlags(libvirt.DomainXMLSecure)     // passwords too
	XMLInactive   = XMLFlags(libvirt.DomainXMLInactive)   // the definition for the next start
	XMLUpdateCPU  = XMLFlags(libvirt.DomainXMLUpdateCPU)  // the CPU as the host provides it
	XMLMigratable = XMLFlags(libvirt.DomainXMLMigratable) // as another host would take it
)

// DomainXML is the domain's description (virDomainGetXMLDesc). For an active
// domain the daemon may ask QEMU first, so it counts as a call that does.
func (c *Client) DomainXML(ctx context.Context, u UUID, flags XMLFlags) (string, error) {
	return call(ctx, c, op{name: "DomainGetXMLDesc", domain: u, monitor: true}, func(lv *libvirt.Libvirt) (string, error) {
		return lv.DomainGetXMLDesc(handle(u), libvirt.DomainXMLFlags(flags))
	})
}

// each runs fn for 0 … n-1 on at most width goroutines and returns the first
// error after all have ended.
func each(n, width int, fn func(int) error) error {
	if width = min(width, n); width <= 1 {
		for i := range n {
			if err := fn(i); err != nil {
				return err
			}
		}
		return nil
	}
	var g errgroup.Group
	var next atomic.Int64
	for range width {
		g.Go(func() error {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := fn(i); err != nil {
					next.Store(int64(n)) // the others need not go on
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// sortDomains sorts by name: libvirt lists in the order of its hash table.
func sortDomains(ds []Domain) {
	slices.SortFunc(ds, func(a, b Domain) int { return strings.Compare(a.Name, b.Name) })
}

// Resolve is the UUID of a domain, without a call when it is known already.
func (c *Client) Resolve(ctx context.Context, r Ref) (UUID, error) {
	if r.by == 'u' {
		return r.uuid, nil
	}
	d, err := c.Lookup(ctx, r)
	return d.UUID, err
}

// StateReason says why the domain is in its state, in virsh's words
// (virDomainRunningReason and its like, libvirt-domain.h).
func (d *Domain) StateReason() string {
	if rs := stateReasons[d.State]; d.Reason > 0 && int(d.Reason) < len(rs) {
		return rs[d.Reason]
	}
	return "unknown"
}

var stateReasons = map[State][]string{
	Running: {"", "booted", "migrated", "restored", "from snapshot", "unpaused", "migration canceled", "save canceled",
		"event wakeup", "crashed", "post-copy", "post-copy failed"},
	Paused: {"", "user", "migrating", "saving", "dumping", "I/O error", "watchdog", "from snapshot", "shutting down",
		"creating snapshot", "crashed", "starting up", "post-copy", "post-copy failed", "api error"},
	ShuttingDown: {"", "user"},
	Shutoff:      {"", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from snapshot", "daemon"},
	Crashed:      {"", "panicked"},
}

// Leftovers is what a domain has beside its definition, which libvirt does not
// remove without being told.
type Leftovers struct {
	ManagedSave, Snapshots, Checkpoints, NVRAM bool
}

// Leftovers finds out what an undefine has to be told about
// (virDomainHasManagedSaveImage, virDomainSnapshotNum,
// virDomainListAllCheckpoints, virDomainGetXMLDesc).
func (c *Client) Leftovers(ctx context.Context, u UUID) (Leftovers, error) {
	var l Leftovers
	d := Domain{UUID: u}
	if err := c.managedSave(ctx, &d); err != nil {
		return l, err
	}
	if err := c.hasSnapshot(ctx, &d); err != nil {
		return l, err
	}
	l.ManagedSave, l.Snapshots = d.ManagedSave, d.HasSnapshot
	n, err := call(ctx, c, op{name: "DomainListAllCheckpoints", domain: u}, func(lv *libvirt.Libvirt) (int32, error) {
		_, n, err := lv.DomainListAllCheckpoints(handle(u), 1, 0)
		return n, err
	})
	if err != nil && KindOf(err) != Unsupported {
		return l, err
	}
	l.Checkpoints = n > 0
	doc, err := c.DomainXML(ctx, u, XMLInactive)
	if KindOf(err) == NoAnswer {
		// Its QEMU hangs. That must not keep it from being stopped and removed, and
		// libvirt itself says then what it wants.
		return l, nil
	}
	if err != nil {
		return l, err
	}
	var def struct {
		OS struct {
			NVRAM *struct{} `xml:"nvram"`
		} `xml:"os"`
	}
	err = xml.Unmarshal([]byte(doc), &def)
	l.NVRAM = def.OS.NVRAM != nil
	return l, err
}
