package buildparams

import (
	"encoding/json"
	"time"
)

// String is the duration as documents write it.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalJSON writes the duration as a string, as in "1h30m0s".
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON reads a string as time.ParseDuration does.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	parsed, err := time.ParseDuration(s)
	*d = Duration(parsed)
	return err
}
