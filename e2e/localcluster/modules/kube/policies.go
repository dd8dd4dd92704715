package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"
)

const queue = 100

// packets are the rules that hand the first packet of each connection to the agent. The agent adds rules like these to
// nftables itself, but their "queue" needs the kernel option NFT_QUEUE, which small kernels of virtual machines lack.
// Every packet that both hand over is judged twice, with the same result.
//
// As in the agent's own rules, connections of root processes of the node are exempt: the kubelet's probes, and kube-proxy.
// --queue-bypass: while no agent runs, all connections are allowed, as with the agent's option fail-open.
var packets = []string{
	"-m owner --uid-owner 0 -j RETURN",
	"-m conntrack --ctstate ESTABLISHED,RELATED -j RETURN",
	"-j NFQUEUE --queue-bypass --queue-num " + strconv.Itoa(queue),
}

// enforcePolicies runs kube-network-policies, the agent that enforces the NetworkPolicies of one node, until a signal.
func enforcePolicies(kubeconfig, node string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	shared := informers.NewSharedInformerFactory(client, 0)
	// With NRI, the agent would learn the addresses of pods from containerd 1.7 or newer. Without its socket, it says so
	// and asks only the API server. (Its option NRIdisabled ends with a nil pointer at the first unknown address.)
	controller, err := networkpolicy.NewController(
		client,
		shared.Networking().V1().NetworkPolicies(), shared.Core().V1().Namespaces(), shared.Core().V1().Pods(),
		nil, nil, nil, nil,
		networkpolicy.Config{FailOpen: true, QueueID: queue, NodeName: node},
	)
	if err != nil {
		return err
	}
	if err := handOver(); err != nil {
		return err
	}
	shared.Start(ctx.Done())
	return controller.Run(ctx)
}

func handOver() error {
	commands := []string{"-N POLICIES", "-F POLICIES"}
	for _, rule := range packets {
		commands = append(commands, "-A POLICIES "+rule)
	}
	// After the address translation of services, before that of sources.
	commands = append(commands, "-D POSTROUTING -j POLICIES", "-A POSTROUTING -j POLICIES")
	for _, command := range commands {
		said, err := exec.Command("iptables", strings.Fields("-w -t mangle "+command)...).CombinedOutput()
		// The chain may exist from an earlier start, or not yet be in use.
		if err != nil && !strings.HasPrefix(command, "-N") && !strings.HasPrefix(command, "-D") {
			return fmt.Errorf("iptables -t mangle %s: %w: %s", command, err, said)
		}
	}
	return nil
}
