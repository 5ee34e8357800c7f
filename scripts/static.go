//go:build ignore

// Command static fails for Linux programs that are not static: those that name
// an interpreter, which is what loads shared libraries.
package main

import (
	"debug/elf"
	"log"
	"os"
)

func main() {
	log.SetFlags(0)
	for _, name := range os.Args[1:] {
		f, err := elf.Open(name)
		if err != nil {
			log.Fatalf("%s: %v", name, err)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP {
				log.Fatalf("%s is not static", name)
			}
		}
		f.Close()
	}
}
