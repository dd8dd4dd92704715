package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// openVolumes makes every directory that appears in the given one writable for everybody, until it is killed.
// kube-controller-manager's host-path provisioner makes them for root alone (mode 0750), and fsGroup does not apply to
// hostPath volumes, so a pod that runs as another user could not write to its own volume.
func openVolumes(parent string) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	if err := watcher.Add(parent); err != nil {
		return err
	}
	// Those that appeared while nobody watched.
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		openVolume(filepath.Join(parent, entry.Name()))
	}
	for {
		select {
		case event := <-watcher.Events:
			if event.Has(fsnotify.Create) {
				openVolume(event.Name)
			}
		case err := <-watcher.Errors:
			return err
		}
	}
}

func openVolume(path string) {
	if err := os.Chmod(path, 0o777); err != nil && !os.IsNotExist(err) {
		fmt.Fprintln(os.Stderr, "open-volumes:", err)
	}
}
