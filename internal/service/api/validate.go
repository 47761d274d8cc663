package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"

	"imagebuilder/internal/fault"
)

// maxProblems is as many as a reader may want to see of one request.
const maxProblems = 50

// validator knows what the document says of each operation's requests.
type validator struct {
	operations map[string]*checks // by the pattern of the route
}

// checks are what is looked at in the requests of one operation.
type checks struct {
	parameters openapi3.Parameters // in query and header
	hasBody    bool
	needsBody  bool
	schema     *openapi3.Schema // nil: package builds looks at the body itself
}

// newValidator reads the document's operations once: a request costs no more than looking at its values.
func newValidator(doc *openapi3.T) *validator {
	v := &validator{operations: map[string]*checks{}}
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			pattern := method + " " + path
			if strings.HasSuffix(path, "/") {
				pattern += "{$}"
			}
			v.operations[pattern] = checksOf(operation)
		}
	}
	return v
}

func checksOf(operation *openapi3.Operation) *checks {
	c := &checks{}
	for _, p := range operation.Parameters {
		if p.Value.In != openapi3.ParameterInPath {
			c.parameters = append(c.parameters, p)
		}
	}
	if operation.RequestBody == nil {
		return c
	}
	body := operation.RequestBody.Value
	c.hasBody, c.needsBody = true, body.Required
	schema := body.Content.Get("application/json").Schema
	if schema.Ref != "#/components/schemas/BuildParams" {
		c.schema = schema.Value
	}
	return c
}

func (v *validator) of(pattern string) *checks { return v.operations[pattern] }

// body is a request's body that has been read already.
type body struct {
	*bytes.Reader
	data []byte
}

func (body) Close() error { return nil }

// bodyOf is the whole body of a request that check let through.
func bodyOf(r *http.Request) []byte {
	if b, ok := r.Body.(body); ok {
		return b.data
	}
	return nil
}

// check reads the body, no more of it than is allowed, and compares the request with the document.
func (s *server) check(w http.ResponseWriter, r *http.Request, c *checks) (*http.Request, error) {
	if c == nil {
		return r, nil
	}
	problems := c.parameterProblems(r)
	if c.hasBody {
		data, err := s.readBody(w, r)
		if err != nil {
			return r, err
		}
		if len(data) > 0 || c.needsBody {
			if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/json" {
				return r, &statusError{status: http.StatusUnsupportedMediaType, detail: "the request's body is not JSON by its Content-Type", hint: "send application/json"}
			}
		}
		r.Body = body{Reader: bytes.NewReader(data), data: data}
		if len(data) > 0 || c.needsBody {
			problems = append(problems, c.bodyProblems(data)...)
		}
	}
	if len(problems) > maxProblems {
		problems = problems[:maxProblems]
	}
	return r, fault.InvalidInput("check the request", problems)
}

func (s *server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	from := io.Reader(r.Body)
	if most := s.Limits.BodyBytes; most > 0 {
		if r.ContentLength > most {
			return nil, &http.MaxBytesError{Limit: most}
		}
		from = http.MaxBytesReader(w, r.Body, most)
	}
	var into bytes.Buffer
	into.Grow(int(max(r.ContentLength, 0)) + bytes.MinRead) // at most the limit, by the lines above
	if _, err := into.ReadFrom(from); err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return nil, err
		}
		return nil, &statusError{status: http.StatusBadRequest, detail: "the request's body ended early"}
	}
	return into.Bytes(), nil
}

func (c *checks) bodyProblems(data []byte) []fault.Problem {
	if c.schema == nil {
		if !json.Valid(data) {
			return []fault.Problem{{Message: "is not valid JSON"}}
		}
		return nil
	}
	var value any
	if err := json.Unmarshal(data, &value); err != nil {
		return []fault.Problem{{Message: "is not valid JSON"}}
	}
	return schemaProblems(c.schema.VisitJSON(value, openapi3.MultiErrors(), openapi3.VisitAsRequest()), "")
}

// parameterProblems looks at what the request has in its query and its header. A parameter that there is not is one that was
// misspelt, and would silently do nothing.
func (c *checks) parameterProblems(r *http.Request) (problems []fault.Problem) {
	query := url.Values{}
	if r.URL.RawQuery != "" && len(c.parameters) > 0 {
		query = r.URL.Query()
		for name := range query {
			if !slices.ContainsFunc(c.parameters, func(p *openapi3.ParameterRef) bool {
				return p.Value.In == openapi3.ParameterInQuery && p.Value.Name == name
			}) {
				problems = append(problems, fault.Problem{Pointer: "/" + fault.EscapePointer(name), Message: "there is no such parameter"})
			}
		}
	}
	input := &openapi3filter.RequestValidationInput{
		Request: r, QueryParams: query,
		Options: &openapi3filter.Options{MultiError: true, SkipSettingDefaults: true},
	}
	for _, p := range c.parameters {
		parameter := p.Value
		switch {
		case parameter.In == openapi3.ParameterInQuery && !query.Has(parameter.Name):
			continue
		case parameter.In == openapi3.ParameterInHeader && len(r.Header.Values(parameter.Name)) == 0:
			continue
		}
		err := openapi3filter.ValidateParameter(r.Context(), input, parameter)
		if err == nil {
			continue
		}
		pointer := "/" + fault.EscapePointer(parameter.Name)
		var request *openapi3filter.RequestError
		if errors.As(err, &request) && request.Err != nil {
			err = request.Err
		}
		if found := schemaProblems(err, pointer); len(found) > 0 {
			problems = append(problems, found...)
		} else {
			problems = append(problems, badValue(parameter))
		}
	}
	return problems
}

// badValue is the problem with a value that cannot even be read.
func badValue(parameter *openapi3.Parameter) fault.Problem {
	kind := "a value"
	if schema := parameter.Schema.Value; schema.Type != nil && len(*schema.Type) > 0 {
		kind = (*schema.Type)[0]
	}
	return fault.Problem{Pointer: "/" + fault.EscapePointer(parameter.Name), Message: "is not of the type " + kind}
}

// schemaProblems are what an error of a schema says, without the values: some are secrets.
func schemaProblems(err error, at string) (problems []fault.Problem) {
	switch err := err.(type) { //nolint:errorlint // errors of kin-openapi are trees, and each of their nodes is looked at
	case nil:
	case openapi3.MultiError:
		for _, e := range err {
			problems = append(problems, schemaProblems(e, at)...)
		}
	case *openapi3.SchemaError:
		pointer := at
		for _, key := range err.JSONPointer() {
			pointer += "/" + fault.EscapePointer(key)
		}
		problems = append(problems, fault.Problem{Pointer: pointer, Message: err.Reason})
	}
	return problems
}

// badParameter answers where the generated code could not read a parameter.
func (s *server) badParameter(w http.ResponseWriter, r *http.Request, err error) {
	name := ""
	var format *InvalidParamFormatError
	var many *TooManyValuesForParamError
	switch {
	case errors.As(err, &format):
		name = format.ParamName
	case errors.As(err, &many):
		name = many.ParamName
	}
	s.fail(w, r, fault.InvalidInput("check the request", []fault.Problem{{Pointer: "/" + fault.EscapePointer(name), Message: "cannot be read"}}))
}
