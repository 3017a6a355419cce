// Command setup does for scripts/control-plane what a shell cannot do without further tools: keys and certificates,
// kubeconfig files, free ports, and one authenticated HTTPS request. It uses the standard library only, so it builds in
// seconds, starts in milliseconds, and is all that is built when the components come from $KUBEBUILDER_ASSETS.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const usage = `usage: setup certs PKI                             make the CA and the keys that are missing in the directory PKI
       setup kubeconfig PKI SERVER USER [GROUP]...  print a kubeconfig with a new client certificate
       setup ports COUNT                            print free loopback ports
       setup free PORT...                           fail unless all are free on loopback
       setup probe PKI URL                          GET as administrator; fail with the answer when it is not 200`

// errUsage is answered with the usage text instead of a message.
var errUsage = errors.New("wrong arguments")

func main() {
	err := run(os.Args[1:])
	if errors.Is(err, errUsage) {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "setup:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "certs":
		return makeMissing(args[1])
	case len(args) >= 4 && args[0] == "kubeconfig":
		return printKubeconfig(args[1], args[2], args[3], args[4:])
	case len(args) == 2 && args[0] == "ports":
		count, err := strconv.Atoi(args[1])
		if err != nil {
			return errUsage
		}
		return printPorts(count)
	case len(args) >= 2 && args[0] == "free":
		for _, port := range args[1:] {
			listener, err := listen(port)
			if err != nil {
				return err
			}
			listener.Close()
		}
		return nil
	case len(args) == 3 && args[0] == "probe":
		return probe(args[1], args[2])
	}
	return errUsage
}

// Linux takes the local ports of outgoing connections from 32768 on, so below it only another server can be in the way.
// The choice is random, not "the first that is free", because several control planes may be starting at this moment.
const firstPort, lastPort = 10000, 32767

func printPorts(count int) error {
	// All stay open until all are found, so that no port is printed twice.
	var open []net.Listener
	for attempt := 0; len(open) < count; attempt++ {
		if attempt > 100*count {
			return fmt.Errorf("no %d free loopback ports from %d to %d", count, firstPort, lastPort)
		}
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		listener, err := listen(strconv.Itoa(port))
		if err != nil {
			continue
		}
		open = append(open, listener)
	}
	for _, listener := range open {
		fmt.Println(listener.Addr().(*net.TCPAddr).Port)
		listener.Close()
	}
	return nil
}

func listen(port string) (net.Listener, error) {
	return net.Listen("tcp4", net.JoinHostPort("127.0.0.1", port))
}

// probeTimeout is short because the caller asks again until its own patience ends.
const probeTimeout = 5 * time.Second

func probe(pki, url string) error {
	roots := x509.NewCertPool()
	ca, err := os.ReadFile(filepath.Join(pki, "ca.crt"))
	if err != nil {
		return err
	}
	if !roots.AppendCertsFromPEM(ca) {
		return fmt.Errorf("no certificate in %s", filepath.Join(pki, "ca.crt"))
	}
	admin, err := tls.LoadX509KeyPair(filepath.Join(pki, "admin.crt"), filepath.Join(pki, "admin.key"))
	if err != nil {
		return err
	}
	// A transport of its own has no proxy, whatever the environment says.
	client := http.Client{Timeout: probeTimeout, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{admin}},
	}}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s\n%s", url, response.Status, body)
	}
	return nil
}
