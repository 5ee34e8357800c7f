// Package xdr knows the layouts of libvirt's remote procedures: what the bytes
// of a call, of its reply, of an event and of an error mean. The layouts are
// read by reflection from the structs that go-libvirt generates out of
// libvirt's remote_protocol.x.
//
// It exists because go-libvirt's own decoder is internal to it and believes
// every count it reads: a reply that claims 0x7fffffff elements makes it
// allocate them, which no one can recover. Check walks a payload first and
// allocates nothing; Decode and Encode serve tests and recordings.
package xdr

import (
	"reflect"

	"github.com/digitalocean/go-libvirt"
)

// Program and Version are those of libvirt's remote protocol in the header of
// every frame (REMOTE_PROGRAM and REMOTE_PROTOCOL_VERSION).
const (
	Program = 0x20008086
	Version = 1
)

// Proc is one remote procedure.
type Proc struct {
	Number uint32
	Name   string // as go-libvirt's method is called
	// Args and Ret are the structs whose fields, in order, are the payload of
	// the call and of its successful reply; nil is an empty payload. An event
	// has no call, its message is Ret.
	Args, Ret reflect.Type
}

// ConnectOpenArgs is the call ConnectOpen as go-libvirt sends it: it writes the
// mark of the optional name as 0x01000000. Libvirt takes any mark but 0 for
// "present", so the mark has to be kept as a number to be written back alike.
type ConnectOpenArgs struct {
	Present uint32
	Name    string
	Flags   uint32
}

// Error is the payload of a reply with status ERROR (remote_error, which
// go-libvirt does not export).
type Error struct {
	Code    int32 // virErrorNumber
	Domain  int32 // virErrorDomain: the part of libvirt that complains
	Message libvirt.OptString
	Level   int32 // virErrorLevel
	Dom     libvirt.OptDomain
	Str1    libvirt.OptString
	Str2    libvirt.OptString
	Str3    libvirt.OptString
	Int1    int32
	Int2    int32
	Net     libvirt.OptNetwork
}

// ErrorType is the layout of Error.
var ErrorType = reflect.TypeFor[Error]()

// none stands for an empty payload in the table.
type none struct{}

// proc makes a line of the table.
func proc[Args, Ret any](number uint32, name string) Proc {
	p := Proc{Number: number, Name: name}
	if t := reflect.TypeFor[Args](); t != reflect.TypeFor[none]() {
		p.Args = t
	}
	if t := reflect.TypeFor[Ret](); t != reflect.TypeFor[none]() {
		p.Ret = t
	}
	return p
}

// procedures are the procedures in use, by number. The numbers are those of
// enum remote_procedure in libvirt's src/remote/remote_protocol.x.
var procedures = []Proc{
	proc[ConnectOpenArgs, none](1, "ConnectOpen"),
	proc[none, none](2, "ConnectClose"),
	proc[none, libvirt.ConnectGetTypeRet](3, "ConnectGetType"),
	proc[none, libvirt.ConnectGetVersionRet](4, "ConnectGetVersion"),
	proc[none, libvirt.NodeGetInfoRet](6, "NodeGetInfo"),
	proc[none, libvirt.ConnectGetCapabilitiesRet](7, "ConnectGetCapabilities"),
	proc[libvirt.DomainCreateArgs, none](9, "DomainCreate"),
	proc[libvirt.DomainCreateXMLArgs, libvirt.DomainCreateXMLRet](10, "DomainCreateXML"),
	proc[libvirt.DomainDefineXMLArgs, libvirt.DomainDefineXMLRet](11, "DomainDefineXML"),
	proc[libvirt.DomainDestroyArgs, none](12, "DomainDestroy"),
	proc[libvirt.DomainGetXMLDescArgs, libvirt.DomainGetXMLDescRet](14, "DomainGetXMLDesc"),
	proc[libvirt.DomainGetAutostartArgs, libvirt.DomainGetAutostartRet](15, "DomainGetAutostart"),
	proc[libvirt.DomainGetInfoArgs, libvirt.DomainGetInfoRet](16, "DomainGetInfo"),
	proc[libvirt.DomainGetOsTypeArgs, libvirt.DomainGetOsTypeRet](19, "DomainGetOsType"),
	proc[libvirt.DomainLookupByIDArgs, libvirt.DomainLookupByIDRet](22, "DomainLookupByID"),
	proc[libvirt.DomainLookupByNameArgs, libvirt.DomainLookupByNameRet](23, "DomainLookupByName"),
	proc[libvirt.DomainLookupByUUIDArgs, libvirt.DomainLookupByUUIDRet](24, "DomainLookupByUUID"),
	proc[libvirt.DomainRebootArgs, none](27, "DomainReboot"),
	proc[libvirt.DomainResumeArgs, none](28, "DomainResume"),
	proc[libvirt.DomainSetAutostartArgs, none](29, "DomainSetAutostart"),
	proc[libvirt.DomainSetMaxMemoryArgs, none](30, "DomainSetMaxMemory"),
	proc[libvirt.DomainSetMemoryArgs, none](31, "DomainSetMemory"),
	proc[libvirt.DomainShutdownArgs, none](33, "DomainShutdown"),
	proc[libvirt.DomainSuspendArgs, none](34, "DomainSuspend"),
	proc[libvirt.DomainUndefineArgs, none](35, "DomainUndefine"),
	proc[none, libvirt.ConnectGetHostnameRet](59, "ConnectGetHostname"),
	proc[none, libvirt.AuthListRet](66, "AuthList"),
	proc[none, libvirt.AuthPolkitRet](70, "AuthPolkit"),
	proc[libvirt.StoragePoolGetInfoArgs, libvirt.StoragePoolGetInfoRet](87, "StoragePoolGetInfo"),
	proc[none, libvirt.ConnectGetUriRet](110, "ConnectGetUri"),
	proc[libvirt.DomainIsActiveArgs, libvirt.DomainIsActiveRet](150, "DomainIsActive"),
	proc[libvirt.DomainIsPersistentArgs, libvirt.DomainIsPersistentRet](151, "DomainIsPersistent"),
	proc[none, libvirt.ConnectGetLibVersionRet](157, "ConnectGetLibVersion"),
	proc[libvirt.DomainHasManagedSaveImageArgs, libvirt.DomainHasManagedSaveImageRet](183, "DomainHasManagedSaveImage"),
	proc[libvirt.DomainSnapshotNumArgs, libvirt.DomainSnapshotNumRet](187, "DomainSnapshotNum"),
	proc[libvirt.DomainCreateWithFlagsArgs, libvirt.DomainCreateWithFlagsRet](196, "DomainCreateWithFlags"),
	proc[libvirt.DomainIsUpdatedArgs, libvirt.DomainIsUpdatedRet](202, "DomainIsUpdated"),
	proc[libvirt.DomainSetMemoryFlagsArgs, none](204, "DomainSetMemoryFlags"),
	proc[libvirt.DomainGetStateArgs, libvirt.DomainGetStateRet](212, "DomainGetState"),
	proc[libvirt.DomainUndefineFlagsArgs, none](231, "DomainUndefineFlags"),
	proc[libvirt.DomainDestroyFlagsArgs, none](234, "DomainDestroyFlags"),
	proc[libvirt.DomainResetArgs, none](245, "DomainReset"),
	proc[libvirt.DomainShutdownFlagsArgs, none](258, "DomainShutdownFlags"),
	proc[libvirt.DomainGetMetadataArgs, libvirt.DomainGetMetadataRet](265, "DomainGetMetadata"),
	proc[libvirt.ConnectListAllDomainsArgs, libvirt.ConnectListAllDomainsRet](273, "ConnectListAllDomains"),
	proc[libvirt.ConnectListAllStoragePoolsArgs, libvirt.ConnectListAllStoragePoolsRet](281, "ConnectListAllStoragePools"),
	proc[libvirt.ConnectDomainEventCallbackRegisterAnyArgs, libvirt.ConnectDomainEventCallbackRegisterAnyRet](316, "ConnectDomainEventCallbackRegisterAny"),
	proc[libvirt.ConnectDomainEventCallbackDeregisterAnyArgs, none](317, "ConnectDomainEventCallbackDeregisterAny"),
	proc[none, libvirt.DomainEventCallbackLifecycleMsg](318, "DomainEventCallbackLifecycle"),
	proc[libvirt.ConnectGetDomainCapabilitiesArgs, libvirt.ConnectGetDomainCapabilitiesRet](342, "ConnectGetDomainCapabilities"),
	proc[libvirt.ConnectGetAllDomainStatsArgs, libvirt.ConnectGetAllDomainStatsRet](344, "ConnectGetAllDomainStats"),
	proc[libvirt.DomainDefineXMLFlagsArgs, libvirt.DomainDefineXMLFlagsRet](350, "DomainDefineXMLFlags"),
	proc[libvirt.DomainRenameArgs, libvirt.DomainRenameRet](358, "DomainRename"),
	proc[libvirt.DomainListAllCheckpointsArgs, libvirt.DomainListAllCheckpointsRet](413, "DomainListAllCheckpoints"),
}

var (
	byNumber = map[uint32]Proc{}
	byName   = map[string]Proc{}
)

func init() {
	for _, p := range procedures {
		byNumber[p.Number] = p
		byName[p.Name] = p
	}
}

// Procedure is the procedure with this number of this program; false when it is
// not one of those in use.
func Procedure(program, number uint32) (Proc, bool) {
	if program != Program {
		return Proc{}, false
	}
	p, ok := byNumber[number]
	return p, ok
}

// Named is the procedure of this name, false when it is not one of those in use.
func Named(name string) (Proc, bool) {
	p, ok := byName[name]
	return p, ok
}

// Procedures are all procedures in use, by number.
func Procedures() []Proc { return append([]Proc(nil), procedures...) }
