package envelope

import "net/http"

// Code is the number of an error as clients see it. The numbers are those of
// the 2020 server whose API this is; they never change their meaning.
type Code int

// The codes, with the HTTP status each one has by itself. Codes whose status
// depends on what libvirt said are given 502 here; Error.Status overrides it.
const (
	Syntax           Code = 0
	BadKey           Code = 1
	BadURL           Code = 2
	BadRequest       Code = 3
	BadSubsystem     Code = 5
	BadParameter     Code = 7
	BadUsername      Code = 8
	BadServiceKey    Code = 9
	Unavailable      Code = 10
	NotPermitted     Code = 11
	Timeout          Code = 12
	TooManyRequests  Code = 13
	MethodNotAllowed Code = 14
	BodyTooLarge     Code = 15
	Busy             Code = 16
	Unsupported      Code = 17
	NoDomain         Code = 42
	BadSearchKey     Code = 101
	BadFlag          Code = 102
	BadIdentifier    Code = 103
	CreateFailed     Code = 105
	Exists           Code = 106
	BadAction        Code = 122
	UnknownAction    Code = 123
	ShutdownFailed   Code = 200
	AlreadyActive    Code = 201
	StartFailed      Code = 202
	NotRunning       Code = 203
	RenameFailed     Code = 205
	MemoryFailed     Code = 206
	MaxMemoryFailed  Code = 207
	AutostartFailed  Code = 208
	DestroyFailed    Code = 209
	NotActive        Code = 210
	NotSuspended     Code = 211
	ResumeFailed     Code = 212
	RebootFailed     Code = 213
	ResetFailed      Code = 214
	SuspendFailed    Code = 215
	DeleteFailed     Code = 216
	BadPatch         Code = 298
	Skipped          Code = 299
	BadPowerValue    Code = 300
	BadPowerFlag     Code = 301
	Internal         Code = 999
)

type meaning struct {
	status  int
	message string
}

var meanings = map[Code]meaning{
	Syntax:           {http.StatusBadRequest, "Syntax error"},
	BadKey:           {http.StatusUnauthorized, "Bad X-Auth-Key"},
	BadURL:           {http.StatusBadRequest, "Bad URL"},
	BadRequest:       {http.StatusBadRequest, "Bad request"},
	BadSubsystem:     {http.StatusNotFound, "Bad subsystem"},
	BadParameter:     {http.StatusNotFound, "Bad subsystem parameter"},
	BadUsername:      {http.StatusUnauthorized, "Bad X-Auth-Username"},
	BadServiceKey:    {http.StatusUnauthorized, "Bad X-Auth-User-Service-Key"},
	Unavailable:      {http.StatusServiceUnavailable, "Failed to open connection to the libvirt daemon"},
	NotPermitted:     {http.StatusForbidden, "Not permitted with this key"},
	Timeout:          {http.StatusGatewayTimeout, "libvirt did not answer in time"},
	TooManyRequests:  {http.StatusTooManyRequests, "Too many requests"},
	MethodNotAllowed: {http.StatusMethodNotAllowed, "Method not allowed"},
	BodyTooLarge:     {http.StatusRequestEntityTooLarge, "Request body too large"},
	Busy:             {http.StatusServiceUnavailable, "Server is busy"},
	Unsupported:      {http.StatusNotImplemented, "Not supported by this hypervisor"},
	NoDomain:         {http.StatusNotFound, "Invalid or missing domain."},
	BadSearchKey:     {http.StatusBadRequest, "Invalid search key"},
	BadFlag:          {http.StatusBadRequest, "Search flag doesn't exist"},
	BadIdentifier:    {http.StatusBadRequest, "Bad object identifier"},
	CreateFailed:     {http.StatusBadGateway, "Failed to create domain"},
	Exists:           {http.StatusConflict, "Domain already exists"},
	BadAction:        {http.StatusBadRequest, "Bad action"},
	UnknownAction:    {http.StatusBadRequest, "Unknown action"},
	ShutdownFailed:   {http.StatusBadGateway, "Could not shut down the domain"},
	AlreadyActive:    {http.StatusConflict, "Domain is already active"},
	StartFailed:      {http.StatusBadGateway, "Could not start the domain"},
	NotRunning:       {http.StatusConflict, "Domain is not running"},
	RenameFailed:     {http.StatusBadGateway, "Renaming failed"},
	MemoryFailed:     {http.StatusBadGateway, "Setting available memory failed"},
	MaxMemoryFailed:  {http.StatusBadGateway, "Setting maximum available memory failed"},
	AutostartFailed:  {http.StatusBadGateway, "Setting autostart policy failed"},
	DestroyFailed:    {http.StatusBadGateway, "Could not destroy the domain"},
	NotActive:        {http.StatusConflict, "Domain is not active"},
	NotSuspended:     {http.StatusConflict, "Domain is not suspended"},
	ResumeFailed:     {http.StatusBadGateway, "Cannot resume"},
	RebootFailed:     {http.StatusBadGateway, "Cannot reboot"},
	ResetFailed:      {http.StatusBadGateway, "Cannot reset"},
	SuspendFailed:    {http.StatusBadGateway, "Cannot suspend"},
	DeleteFailed:     {http.StatusBadGateway, "Cannot delete the domain"},
	BadPatch:         {http.StatusBadRequest, "PATCH data has to be an action or an array of actions"},
	Skipped:          {http.StatusFailedDependency, "Skipped: an action it depends on did not succeed"},
	BadPowerValue:    {http.StatusBadRequest, "Invalid power management value"},
	BadPowerFlag:     {http.StatusBadRequest, "Invalid flag"},
	Internal:         {http.StatusInternalServerError, "Internal error"},
}

// Codes lists every code, in no particular order.
func Codes() []Code {
	out := make([]Code, 0, len(meanings))
	for c := range meanings {
		out = append(out, c)
	}
	return out
}

// Status is the HTTP status that the code has by itself.
func (c Code) Status() int { return meanings[c].status }

// Message is the code's own sentence.
func (c Code) Message() string { return meanings[c].message }
