package buildparams

import (
	"fmt"

	"github.com/goccy/go-yaml/token"
)

// maxMarks is how many characters that mean something in YAML a text may have, wherever they stand: the scanner makes a token or two of
// each, and takes a second for so many. It is five for each value: dash, colon, comma or line break, and quotes of its key and itself.
const maxMarks = 5 * maxValues

// overfull tells whether a text is too much for the scanner. A large text of few marks, as certificates are, is not.
func overfull(data []byte) bool {
	marks := 0
	for _, c := range data {
		switch c {
		case '[', ']', '{', '}', ',', ':', '-', '?', '&', '*', '!', '%', '|', '>', '#', '"', '\'', '\n':
			marks++
		}
	}
	return marks > maxMarks
}

// block is a block of YAML that is still open: where it began and how many entries it has had.
type block struct{ column, entries int }

// bound refuses what would exhaust the parser, which calls itself once for each level and for each field of a map.
func bound(tokens token.Tokens) *syntaxError {
	var blocks []block
	flow, run := 0, 0
	lineStart := (*token.Token)(nil)
	for _, t := range tokens {
		if lineStart == nil || t.Position.Line != lineStart.Position.Line {
			lineStart = t
		}
		run++
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow = max(flow-1, 0)
		case token.AnchorType, token.AliasType, token.TagType:
		case token.SequenceEntryType:
			blocks = enter(blocks, t.Position.Column, 0) // lists do not cost more than their length
		case token.MappingKeyType:
			blocks = enter(blocks, t.Position.Column, 1)
		case token.MappingValueType:
			if flow == 0 {
				blocks = enter(blocks, lineStart.Position.Column, 1)
			}
			run = 0
		default:
			// Anchors and aliases in a row have names between them, which are tokens too.
			if t.Prev == nil || (t.Prev.Type != token.AnchorType && t.Prev.Type != token.AliasType) {
				run = 0
			}
		}
		switch at := t.Position; {
		case flow+len(blocks) > maxDepth || run > 2*maxDepth:
			return &syntaxError{line: at.Line, column: at.Column, message: fmt.Sprintf("nested deeper than %d levels", maxDepth)}
		case len(blocks) > 0 && blocks[len(blocks)-1].entries > 2*maxFields: // "? a" and ": b" count one each
			return &syntaxError{line: at.Line, column: at.Column, message: tooManyFields()}
		}
	}
	return nil
}

// enter notes an entry of the block at a column, which ends those further to the right, and opens the block if it is new.
func enter(blocks []block, column, entries int) []block {
	for len(blocks) > 0 && blocks[len(blocks)-1].column > column {
		blocks = blocks[:len(blocks)-1]
	}
	if len(blocks) == 0 || blocks[len(blocks)-1].column < column {
		blocks = append(blocks, block{column: column})
	}
	blocks[len(blocks)-1].entries += entries
	return blocks
}

func tooManyFields() string { return fmt.Sprintf("more than %d fields in one map", maxFields) }
