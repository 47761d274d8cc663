package result

// Deleted is what delete returns: what became of each tag, in the order of the target.
type Deleted struct {
	Tags []DeletedTag `json:"tags"`
}

// DeletedTag is one tag of a target. Neither removed nor kept means that its removal failed.
type DeletedTag struct {
	Ref     string       `json:"ref"` // registry/repository:tag
	Removed bool         `json:"removed,omitempty"`
	Kept    string       `json:"kept,omitempty"` // why there was nothing to remove, or why it was left alone
	Error   *ErrorResult `json:"error,omitempty"`
}

// Verified is what verify returns: each tag and what it names, in the order of the target.
type Verified struct {
	Tags []VerifiedTag `json:"tags"`
}

// VerifiedTag is one tag of a target.
type VerifiedTag struct {
	Ref    string       `json:"ref"`              // registry/repository:tag
	Digest string       `json:"digest,omitempty"` // of the manifest, or of the index when multi-platform
	Error  *ErrorResult `json:"error,omitempty"`  // why the tag is not as it was pushed
}
