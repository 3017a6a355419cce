// Command control-plane is etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kubelet in one program. It is
// what the tests mean by "a real API server". The first argument names the component, the rest goes to it unchanged, so
// scripts/control-plane can start this program and separate binaries ($KUBEBUILDER_ASSETS) in the same way.
//
// kubelet is for the virtual machines of the node tests. It shares nearly all its packages with the others: linking it
// costs 8 MB of 133 and a tenth of the time to build.
package main

import (
	"context"
	"fmt"
	"os"
	_ "time/tzdata" // the time zones of CronJob, on machines without tzdata

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// components makes a command only when it is asked for: making one registers feature gates and metrics, which are
// global, and those of two components in one process could disagree.
var components = map[string]func() *cobra.Command{
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": controllermanager.NewControllerManagerCommand,
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
}

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	name := os.Args[1]
	// The components look at os.Args themselves (etcd to find its flags, cobra for all the others).
	os.Args = append([]string{name}, os.Args[2:]...)
	if name == "etcd" {
		etcdmain.Main(os.Args)
		return
	}
	command, found := components[name]
	if !found {
		usage()
	}
	os.Exit(cli.Run(command()))
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: control-plane etcd|kube-apiserver|kube-controller-manager|kube-scheduler|kubelet [FLAG]...")
	os.Exit(2)
}
