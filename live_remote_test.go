package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Every transport reaches a libvirtd, finds it again after it was away, and
// leaves no connection behind.
func TestLiveTransports(t *testing.T) {
	liveSocket(t, envTest)
	pki := makePKI(t)
	tcp, tls := freePort(t), freePort(t)
	d := startDaemonWith(t,
		fmt.Sprintf("listen_tcp=1\nlisten_tls=1\nlisten_addr=\"127.0.0.1\"\ntcp_port=%q\ntls_port=%q\nauth_tcp=\"none\"\nauth_tls=\"none\"\n"+
			"ca_file=%q\ncert_file=%q\nkey_file=%q\n",
			tcp, tls, pki+"/cacert.pem", pki+"/servercert.pem", pki+"/serverkey.pem"),
		"--listen")
	port, keys := startSSHD(t)

	reaches := func(g *gateway) {
		t.Helper()
		eventually(t, "an answer", 20*time.Second, func() bool {
			a := g.do(t, "GET", "/libvirt/domains/by-name/test?fields=name", "")
			return a.status == 200
		})
	}
	gateways := map[string]*gateway{}
	for name, settings := range map[string][]string{
		"tcp": {"libvirtd.transport=tcp", "libvirtd.hostname=127.0.0.1", "libvirtd.port=" + tcp},
		"tls": {"libvirtd.transport=tls", "libvirtd.hostname=127.0.0.1", "libvirtd.port=" + tls, "libvirtd.extras=pkipath=" + pki},
		"ssh": {"libvirtd.transport=ssh", "libvirtd.hostname=127.0.0.1", "libvirtd.port=" + port,
			"libvirtd.extras=keyfile=" + keys + "/key&known_hosts=" + keys + "/known_hosts"},
	} {
		g := startGateway(t, "test", d.socket(), append(settings, "libvirtd.path=default")...)
		gateways[name] = g
		reaches(g)
	}
	for range 2 {
		d.kill()
		for name, g := range gateways {
			eventually(t, name+" notices", 20*time.Second, func() bool { return g.do(t, "GET", "/readyz", "").status == 503 })
		}
		d.start()
		for _, g := range gateways {
			reaches(g)
		}
	}
	for name, g := range gateways {
		eventually(t, name+" has its four connections and no other", 20*time.Second, func() bool { return g.sockets(t) == 4 })
	}
}

// sockets counts the program's connections to other processes but the HTTP ones.
func (g *gateway) sockets(t *testing.T) int {
	t.Helper()
	g.http.CloseIdleConnections()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", g.pid))
	if err != nil {
		t.Fatal(err)
	}
	n := -1 // the listener
	for _, fd := range fds {
		if to, _ := os.Readlink(fd); strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

// A wrong certificate or an unknown host is refused, and the log says why.
func TestLiveTransportsRefused(t *testing.T) {
	liveSocket(t, envTest)
	pki, other := makePKI(t), makePKI(t)
	tls := freePort(t)
	d := startDaemonWith(t,
		fmt.Sprintf("listen_tcp=0\nlisten_tls=1\nlisten_addr=\"127.0.0.1\"\ntls_port=%q\nauth_tls=\"none\"\nca_file=%q\ncert_file=%q\nkey_file=%q\n",
			tls, pki+"/cacert.pem", pki+"/servercert.pem", pki+"/serverkey.pem"),
		"--listen")
	eventually(t, "the socket", 10*time.Second, func() bool { return socketAnswers(d.socket()) })
	port, keys := startSSHD(t)
	none := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// The server believes only its own CA, the client only its own.
	clientOnly := t.TempDir()
	for from, to := range map[string]string{pki + "/cacert.pem": "cacert.pem", other + "/clientcert.pem": "clientcert.pem", other + "/clientkey.pem": "clientkey.pem"} {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(clientOnly, to), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ name, uri, want string }{
		{"another CA", "test+tls://127.0.0.1:" + tls + "/default?pkipath=" + other, "unknown authority"},
		{"a client of another CA", "test+tls://127.0.0.1:" + tls + "/default?pkipath=" + clientOnly, "did not accept our client certificate"},
		{"no CA", "test+tls://127.0.0.1:" + tls + "/default?pkipath=/nonexistent", "pkipath="},
		{"an unknown host", "test+ssh://127.0.0.1:" + port + "/default?keyfile=" + keys + "/key&known_hosts=" + none, "known_hosts="},
		{"an unknown key", "test+ssh://127.0.0.1:" + port + "/default?keyfile=" + keys + "/stranger&known_hosts=" + keys + "/known_hosts", "unable to authenticate"},
		{"no socket there", "test+ssh://127.0.0.1:" + port + "/default?keyfile=" + keys + "/key&known_hosts=" + keys + "/known_hosts&socket=/nonexistent", "cannot open /nonexistent there"},
		{"nobody there", "test+tcp://127.0.0.1:" + freePort(t) + "/default", "refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bin, err := binary()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(bin, "--check", "--uri", c.uri)
			cmd.Dir = t.TempDir()
			out, err := cmd.CombinedOutput()
			if err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), c.want) {
				t.Errorf("--check --uri %s: %v, want %q in\n%s", c.uri, err, c.want, out)
			}
		})
	}
}

// The socket of a user's own daemon is found where libvirt puts it.
func TestLiveSession(t *testing.T) {
	liveSocket(t, envQEMU) // where that is set, the QEMU driver is installed
	d, run := startDaemon(t), t.TempDir()
	if err := os.Symlink(d.dir, filepath.Join(run, "libvirt")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", run)
	g := startGateway(t, "qemu", "", "libvirtd.path=session")
	eventually(t, "an answer", 20*time.Second, func() bool { return g.do(t, "GET", "/readyz", "").status == 200 })
	if a := g.do(t, "GET", "/libvirt/version", ""); !strings.Contains(a.raw, `"hypervisor":"QEMU"`) {
		t.Errorf("version: %s", a.raw)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// makePKI makes a CA, and certificates of it for a server and a client, under
// the names that libvirt uses.
func makePKI(t *testing.T) (dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "vg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // the daemon is another user
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) {
		b := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	make := func(name string, tmpl, parent *x509.Certificate, signer *ecdsa.PrivateKey) *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if signer == nil {
			parent, signer = tmpl, key
		}
		tmpl.Subject = pkix.Name{CommonName: name}
		tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		cert, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		write(name+"cert.pem", "CERTIFICATE", cert)
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(name+"key.pem", "PRIVATE KEY", der)
		return key
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	key := make("ca", ca, nil, nil)
	usage := x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	make("server", &x509.Certificate{SerialNumber: big.NewInt(2), KeyUsage: usage, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, ca, key)
	make("client", &x509.Certificate{SerialNumber: big.NewInt(3), KeyUsage: usage, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, ca, key)
	return dir
}

// startSSHD starts an OpenSSH server on loopback for the user of the test. dir
// has the client's key, known_hosts, and a key that the server does not know.
func startSSHD(t *testing.T) (port, dir string) {
	t.Helper()
	const sshd = "/usr/sbin/sshd"
	if _, err := os.Stat(sshd); err != nil {
		t.Skipf("no OpenSSH server: %v", err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if me.Uid == "0" {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // sshd wants it
			t.Fatal(err)
		}
	}
	dir = t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := func(name string) (file string, public ssh.PublicKey) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		block, err := ssh.MarshalPrivateKey(k, "")
		if err != nil {
			t.Fatal(err)
		}
		if public, err = ssh.NewPublicKey(&k.PublicKey); err != nil {
			t.Fatal(err)
		}
		return write(name, string(pem.EncodeToMemory(block))), public
	}
	host, hostPublic := key("host")
	_, public := key("key")
	key("stranger")
	port = freePort(t)
	write("known_hosts", "[127.0.0.1]:"+port+" "+string(ssh.MarshalAuthorizedKey(hostPublic)))
	authorized := write("authorized", string(ssh.MarshalAuthorizedKey(public)))
	conf := write("sshd_config", fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %s\nAuthorizedKeysFile %s\n"+
		"StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nAllowStreamLocalForwarding yes\nMaxStartups 100\n", port, host, authorized))
	cmd := exec.Command(sshd, "-D", "-e", "-f", conf)
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("sshd: %s", out.String())
		}
	})
	eventually(t, "sshd", 10*time.Second, func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return port, dir
}
