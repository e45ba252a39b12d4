// Verifies a published log with the Go project's own transparency log packages (golang.org/x/mod/sumdb): the
// checkpoint's signature, inclusion of chosen entries and consistency between chosen sizes, all read from tiles.
//
//	verify <directory> <verifier key> <inclusion count> <size> ...
package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type directory struct {
	root string
	size int64
}

func (d directory) Height() int { return 8 }

func (d directory) SaveTiles(tiles []tlog.Tile, data [][]byte) {}

// path is where c2sp.org/tlog-tiles has a tile: as the checksum database, without the height.
func path(t tlog.Tile) string {
	parts := strings.SplitN(t.Path(), "/", 3)
	return filepath.Join("tile", parts[2])
}

func (d directory) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, t := range tiles {
		content, err := os.ReadFile(filepath.Join(d.root, path(t)))
		if err != nil {
			return nil, err
		}
		found = append(found, content)
	}
	return found, nil
}

func check(err error, what string) {
	if err != nil {
		fmt.Println("FAILED", what, err)
		os.Exit(1)
	}
}

func main() {
	root, key := os.Args[1], os.Args[2]
	wanted, _ := strconv.Atoi(os.Args[3])
	raw, err := os.ReadFile(filepath.Join(root, "checkpoint"))
	check(err, "reading the checkpoint")
	verifier, err := note.NewVerifier(key)
	check(err, "the key")
	opened, err := note.Open(raw, note.VerifierList(verifier))
	check(err, "the signature")
	lines := strings.Split(opened.Text, "\n")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	check(err, "the size")
	decoded, err := base64.StdEncoding.DecodeString(lines[2])
	check(err, "the root")
	var treeRoot tlog.Hash
	copy(treeRoot[:], decoded)
	tree := tlog.Tree{N: size, Hash: treeRoot}
	reader := tlog.TileHashReader(tree, directory{root, size})

	included := 0
	step := size/int64(wanted) + 1
	for index := int64(0); index < size; index += step {
		proof, err := tlog.ProveRecord(size, index, reader)
		check(err, fmt.Sprint("proving ", index))
		hash := tlog.RecordHash(entry(root, index, size))
		check(tlog.CheckRecord(proof, size, treeRoot, index, hash), fmt.Sprint("inclusion of ", index))
		included++
	}
	consistent := 0
	for _, each := range os.Args[4:] {
		older, _ := strconv.ParseInt(each, 10, 64)
		olderRoot, err := tlog.TreeHash(older, reader)
		check(err, fmt.Sprint("root of ", older))
		proof, err := tlog.ProveTree(size, older, reader)
		check(err, fmt.Sprint("proving ", older))
		check(tlog.CheckTree(proof, size, treeRoot, older, olderRoot), fmt.Sprint("consistency with ", older))
		fmt.Printf("root %d %s\n", older, base64.StdEncoding.EncodeToString(olderRoot[:]))
		consistent++
	}
	fmt.Printf("ok size=%d inclusion=%d consistency=%d\n", size, included, consistent)
}

// entry reads one entry from its bundle.
func entry(root string, index, size int64) []byte {
	t := tlog.TileForIndex(8, tlog.StoredHashIndex(0, index))
	if last := size - t.N*256; last < 256 {
		t.W = int(last)
	} else {
		t.W = 256
	}
	name := strings.Replace(path(t), "tile/0/", "tile/entries/", 1)
	bundle, err := os.ReadFile(filepath.Join(root, name))
	check(err, "reading "+name)
	for number := index % 256; ; number-- {
		length := int(bundle[0])<<8 | int(bundle[1])
		if number == 0 {
			return bundle[2 : 2+length]
		}
		bundle = bundle[2+length:]
	}
}

