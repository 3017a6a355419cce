package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

// A test cluster does not live for years, but its directory may be kept for days.
const validity = 365 * 24 * time.Hour

// makeMissing keeps what is there: a control plane that is started again keeps its CA, so kubeconfigs and tokens that
// tests hold stay good.
func makeMissing(pki string) error {
	if err := os.MkdirAll(pki, 0o700); err != nil {
		return err
	}
	steps := []struct {
		file string
		make func(pki string) error
	}{
		{"ca.key", makeAuthority},
		{"serving.key", makeServing},
		{"admin.key", makeAdmin},
		{"service-account.key", makeServiceAccountKey},
	}
	for _, step := range steps {
		_, err := os.Stat(filepath.Join(pki, step.file))
		if err == nil {
			continue
		}
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := step.make(pki); err != nil {
			return fmt.Errorf("making %s: %w", step.file, err)
		}
	}
	return nil
}

func makeAuthority(pki string) error {
	return issueFiles(pki, "ca", x509.Certificate{
		Subject:               pkix.Name{CommonName: "control-plane"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	})
}

// makeServing names every way to the API server: loopback, the host as a QEMU guest with user networking sees it
// (10.0.2.2), and the service in the cluster (10.0.0.1 is the first address of the service range).
func makeServing(pki string) error {
	var addresses []net.IP
	for _, address := range []string{"127.0.0.1", "::1", "10.0.2.2", "10.0.0.1"} {
		addresses = append(addresses, net.ParseIP(address))
	}
	return issueFiles(pki, "serving", x509.Certificate{
		Subject:     pkix.Name{CommonName: "kubernetes"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: addresses,
		DNSNames: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local"},
	})
}

func makeAdmin(pki string) error {
	return issueFiles(pki, "admin", client("admin", []string{"system:masters"}))
}

// client is the certificate of a user: Kubernetes takes the user from the common name, the groups from the organisations.
func client(user string, groups []string) x509.Certificate {
	return x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// makeServiceAccountKey makes an RSA key, because tokens signed with it are RS256 as in nearly every real cluster.
func makeServiceAccountKey(pki string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(pki, "service-account.pub"), "PUBLIC KEY", public); err != nil {
		return err
	}
	return writeKey(filepath.Join(pki, "service-account.key"), key)
}

// issueFiles writes the certificate before the key, since makeMissing takes the key as the sign that both are there.
func issueFiles(pki, name string, request x509.Certificate) error {
	key, certificate, err := issue(pki, request)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(pki, name+".crt"), "CERTIFICATE", certificate); err != nil {
		return err
	}
	return writeKey(filepath.Join(pki, name+".key"), key)
}

// issue makes a key and its certificate, signed by the CA in pki, or by itself when it is the CA.
func issue(pki string, request x509.Certificate) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	request.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	// An hour back, for virtual machines whose clock is behind the host's.
	request.NotBefore = time.Now().Add(-time.Hour)
	request.NotAfter = time.Now().Add(validity)
	issuer, signer := &request, crypto.PrivateKey(key)
	if !request.IsCA {
		authority, err := tls.LoadX509KeyPair(filepath.Join(pki, "ca.crt"), filepath.Join(pki, "ca.key"))
		if err != nil {
			return nil, nil, err
		}
		issuer, signer = authority.Leaf, authority.PrivateKey
	}
	certificate, err := x509.CreateCertificate(rand.Reader, &request, issuer, &key.PublicKey, signer)
	return key, certificate, err
}

func writeKey(path string, key crypto.PrivateKey) error {
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(path, "PRIVATE KEY", encoded)
}

// writePEM renames a finished file into place: an interrupted start must not leave half a key behind as if it were one.
func writePEM(path, kind string, contents []byte) error {
	unfinished := path + ".new"
	encoded := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: contents})
	if err := os.WriteFile(unfinished, encoded, 0o600); err != nil {
		return err
	}
	return os.Rename(unfinished, path)
}

// Everything is inline, so that the file alone can be carried into a container or a virtual machine.
var kubeconfig = template.Must(template.New("kubeconfig").Parse(`apiVersion: v1
kind: Config
clusters:
- name: test
  cluster:
    server: "{{.Server}}"
    certificate-authority-data: {{.Authority}}
users:
- name: "{{.User}}"
  user:
    client-certificate-data: {{.Certificate}}
    client-key-data: {{.Key}}
contexts:
- name: test
  context:
    cluster: test
    user: "{{.User}}"
current-context: test
`))

func printKubeconfig(pki, server, user string, groups []string) error {
	if strings.ContainsAny(server+user, "\"\\\n") {
		return errors.New("a server or user with quotes, backslashes or line ends")
	}
	authority, err := os.ReadFile(filepath.Join(pki, "ca.crt"))
	if err != nil {
		return err
	}
	key, certificate, err := issue(pki, client(user, groups))
	if err != nil {
		return err
	}
	encodedKey, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	inline := func(kind string, contents []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: contents}))
	}
	return kubeconfig.Execute(os.Stdout, map[string]string{
		"Server":      server,
		"User":        user,
		"Authority":   base64.StdEncoding.EncodeToString(authority),
		"Certificate": inline("CERTIFICATE", certificate),
		"Key":         inline("PRIVATE KEY", encodedKey),
	})
}
