// Program is what the tests run in containers. It needs nothing but itself in the image.
//
//	program print TEXT     prints TEXT
//	program hold TOKEN     waits to be killed; TOKEN makes it findable
//	program fill MEGABYTES writes so many to /filling
package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

func main() {
	switch os.Args[1] {
	case "print":
		fmt.Println(os.Args[2])
	case "hold":
		time.Sleep(time.Hour)
	case "fill":
		n, _ := strconv.ParseInt(os.Args[2], 10, 64)
		f, err := os.Create("/filling")
		if err == nil {
			_, err = io.CopyN(f, rand.Reader, n<<20) // random: nothing on the way may compress it
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}
