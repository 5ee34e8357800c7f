package libvirtrpc

import (
	"context"
	"errors"

	"github.com/digitalocean/go-libvirt"
)

// StartFlags modify Start and CreateTransient (virDomainCreateFlags).
type StartFlags uint32

const (
	StartPaused      = StartFlags(libvirt.DomainStartPaused)
	StartBypassCache = StartFlags(libvirt.DomainStartBypassCache)
	StartForceBoot   = StartFlags(libvirt.DomainStartForceBoot)
	StartValidate    = StartFlags(libvirt.DomainStartValidate)
	startAutodestroy = StartFlags(libvirt.DomainStartAutodestroy)
)

// ShutdownFlags say how a guest is asked to shut down or reboot
// (virDomainShutdownFlagValues; virDomainRebootFlagValues has the same
// numbers).
type ShutdownFlags uint32

const (
	ShutdownACPI     = ShutdownFlags(libvirt.DomainShutdownAcpiPowerBtn)
	ShutdownAgent    = ShutdownFlags(libvirt.DomainShutdownGuestAgent)
	ShutdownInitctl  = ShutdownFlags(libvirt.DomainShutdownInitctl)
	ShutdownSignal   = ShutdownFlags(libvirt.DomainShutdownSignal)
	ShutdownParavirt = ShutdownFlags(libvirt.DomainShutdownParavirt)
)

// UndefineFlags say what goes away with a definition
// (virDomainUndefineFlagsValues).
type UndefineFlags uint32

const (
	UndefineManagedSave         = UndefineFlags(libvirt.DomainUndefineManagedSave)
	UndefineSnapshotsMetadata   = UndefineFlags(libvirt.DomainUndefineSnapshotsMetadata)
	UndefineNVRAM               = UndefineFlags(libvirt.DomainUndefineNvram)
	UndefineKeepNVRAM           = UndefineFlags(libvirt.DomainUndefineKeepNvram)
	UndefineCheckpointsMetadata = UndefineFlags(libvirt.DomainUndefineCheckpointsMetadata)
	// The two of libvirt 8.9; go-libvirt may not have their names yet.
	UndefineTPM     = UndefineFlags(1 << 5)
	UndefineKeepTPM = UndefineFlags(1 << 6)
)

// monitored makes a change that waits for the QEMU monitor of the domain.
func (c *Client) monitored(ctx context.Context, name string, u UUID, fn func(*libvirt.Libvirt) error) error {
	return do(ctx, c, op{name: name, change: true, domain: u, monitor: true}, fn)
}

// locked makes a change that waits for the lock of the domain.
func (c *Client) locked(ctx context.Context, name string, u UUID, fn func(*libvirt.Libvirt) error) error {
	return do(ctx, c, op{name: name, change: true, domain: u, lock: true}, fn)
}

// change makes a change that waits for neither.
func (c *Client) change(ctx context.Context, name string, u UUID, fn func(*libvirt.Libvirt) error) error {
	return do(ctx, c, op{name: name, change: true, domain: u}, fn)
}

// Start starts an inactive domain (virDomainCreateWithFlags).
func (c *Client) Start(ctx context.Context, u UUID, flags StartFlags) error {
	return c.monitored(ctx, "DomainCreateWithFlags", u, func(lv *libvirt.Libvirt) error {
		_, err := lv.DomainCreateWithFlags(handle(u), uint32(flags))
		return err
	})
}

// Shutdown asks the guest to shut down and does not wait for it
// (virDomainShutdownFlags).
func (c *Client) Shutdown(ctx context.Context, u UUID, flags ShutdownFlags) error {
	return c.monitored(ctx, "DomainShutdownFlags", u, func(lv *libvirt.Libvirt) error {
		return lv.DomainShutdownFlags(handle(u), libvirt.DomainShutdownFlagValues(flags))
	})
}

// Reboot asks the guest to reboot (virDomainReboot).
func (c *Client) Reboot(ctx context.Context, u UUID, flags ShutdownFlags) error {
	return c.monitored(ctx, "DomainReboot", u, func(lv *libvirt.Libvirt) error {
		return lv.DomainReboot(handle(u), libvirt.DomainRebootFlagValues(flags))
	})
}

// Reset is the reset button (virDomainReset).
func (c *Client) Reset(ctx context.Context, u UUID) error {
	return c.monitored(ctx, "DomainReset", u, func(lv *libvirt.Libvirt) error { return lv.DomainReset(handle(u), 0) })
}

// Suspend stops the virtual CPUs (virDomainSuspend).
func (c *Client) Suspend(ctx context.Context, u UUID) error {
	return c.monitored(ctx, "DomainSuspend", u, func(lv *libvirt.Libvirt) error { return lv.DomainSuspend(handle(u)) })
}

// Resume lets them go on (virDomainResume).
func (c *Client) Resume(ctx context.Context, u UUID) error {
	return c.monitored(ctx, "DomainResume", u, func(lv *libvirt.Libvirt) error { return lv.DomainResume(handle(u)) })
}

// Destroy ends the domain's process (virDomainDestroyFlags); graceful spares it
// the SIGKILL. It is what helps against a hung QEMU, so no circuit-breaker
// stands before it: libvirt kills the process without asking its monitor.
func (c *Client) Destroy(ctx context.Context, u UUID, graceful bool) error {
	flags := libvirt.DomainDestroyDefault
	if graceful {
		flags = libvirt.DomainDestroyGraceful
	}
	err := c.change(ctx, "DomainDestroyFlags", u, func(lv *libvirt.Libvirt) error {
		return lv.DomainDestroyFlags(handle(u), flags)
	})
	if err == nil {
		c.gate.gone(u)
	}
	return err
}

// Rename gives an inactive domain another name (virDomainRename).
func (c *Client) Rename(ctx context.Context, u UUID, name string) error {
	return c.locked(ctx, "DomainRename", u, func(lv *libvirt.Libvirt) error {
		_, err := lv.DomainRename(handle(u), libvirt.OptString{name}, 0)
		return err
	})
}

// SetMemory sets the memory of the running domain, or of the definition of an
// inactive one, in KiB (virDomainSetMemoryFlags, VIR_DOMAIN_AFFECT_CURRENT).
func (c *Client) SetMemory(ctx context.Context, u UUID, kib uint64) error {
	return c.monitored(ctx, "DomainSetMemoryFlags", u, func(lv *libvirt.Libvirt) error {
		return lv.DomainSetMemoryFlags(handle(u), kib, 0)
	})
}

// SetMaxMemory sets the most memory that the domain can be given, in KiB
// (virDomainSetMemoryFlags with VIR_DOMAIN_MEM_MAXIMUM).
func (c *Client) SetMaxMemory(ctx context.Context, u UUID, kib uint64) error {
	return c.locked(ctx, "DomainSetMemoryFlags", u, func(lv *libvirt.Libvirt) error {
		return lv.DomainSetMemoryFlags(handle(u), kib, uint32(libvirt.DomainMemMaximum))
	})
}

// SetAutostart says whether the domain starts with its host
// (virDomainSetAutostart).
func (c *Client) SetAutostart(ctx context.Context, u UUID, on bool) error {
	var v int32
	if on {
		v = 1
	}
	return c.locked(ctx, "DomainSetAutostart", u, func(lv *libvirt.Libvirt) error {
		return lv.DomainSetAutostart(handle(u), v)
	})
}

// Define defines a persistent domain (virDomainDefineXMLFlags). validate checks
// the document against libvirt's schema. libvirt replaces a definition with the
// same name and UUID: see to it beforehand that there is none.
func (c *Client) Define(ctx context.Context, doc string, validate bool) (Domain, error) {
	var flags libvirt.DomainDefineFlags
	if validate {
		flags = libvirt.DomainDefineValidate
	}
	d, err := c.create(ctx, "DomainDefineXMLFlags", func(lv *libvirt.Libvirt) (libvirt.Domain, error) {
		return lv.DomainDefineXMLFlags(doc, flags)
	})
	// libvirt finds many mistakes in a document to be internal errors ("missing
	// domain type attribute"), and reading it is what this call does.
	if e := (*Error)(nil); errors.As(err, &e) && e.Code == int(libvirt.ErrInternalError) {
		e.Kind = Invalid
	}
	return d, err
}

// CreateTransient starts a domain that is forgotten when it stops
// (virDomainCreateXML).
func (c *Client) CreateTransient(ctx context.Context, doc string, flags StartFlags) (Domain, error) {
	return c.create(ctx, "DomainCreateXML", func(lv *libvirt.Libvirt) (libvirt.Domain, error) {
		return lv.DomainCreateXML(doc, libvirt.DomainCreateFlags(flags))
	})
}

func (c *Client) create(ctx context.Context, name string, fn func(*libvirt.Libvirt) (libvirt.Domain, error)) (Domain, error) {
	d, err := call(ctx, c, op{name: name, change: true}, fn)
	c.redefined(UUID(d.UUID)) // the event may come after the next list
	return fromHandle(d), err
}

// Undefine removes a definition (virDomainUndefineFlags).
func (c *Client) Undefine(ctx context.Context, u UUID, flags UndefineFlags) error {
	defer c.redefined(u)
	return c.locked(ctx, "DomainUndefineFlags", u, func(lv *libvirt.Libvirt) error {
		return lv.DomainUndefineFlags(handle(u), libvirt.DomainUndefineFlagsValues(flags))
	})
}
