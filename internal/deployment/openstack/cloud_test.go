//go:build blueprints

package openstack_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
)

// cloud speaks to the OpenStack in the name of one user in one project, past everything that is tested.
type cloud struct {
	token, project string
	services       map[string]string // addresses by type
	auth           map[string]string // of clouds.yaml
}

// logIn logs in as a cloud of clouds.yaml says, to its project or the one that is named.
func logIn(ctx context.Context, file, name, project string) (*cloud, error) {
	data, err := os.ReadFile(filepath.Clean(file))
	if err != nil {
		return nil, err
	}
	var all struct {
		Clouds map[string]struct {
			Auth map[string]string `yaml:"auth"`
		} `yaml:"clouds"`
	}
	if err := yaml.Unmarshal(data, &all); err != nil {
		return nil, err
	}
	c := &cloud{auth: all.Clouds[name].Auth, services: map[string]string{}}
	if project == "" {
		project = c.auth["project_name"]
	}
	domain := map[string]string{"id": "default"}
	request := map[string]any{"auth": map[string]any{
		"identity": map[string]any{"methods": []string{"password"}, "password": map[string]any{
			"user": map[string]any{"name": c.auth["username"], "password": c.auth["password"], "domain": domain},
		}},
		"scope": map[string]any{"project": map[string]any{"name": project, "domain": domain}},
	}}
	var answer struct {
		Token struct {
			Project struct{ ID string }
			Catalog []struct {
				Type      string
				Endpoints []struct{ Interface, URL string }
			}
		}
	}
	header, status, err := c.request(ctx, http.MethodPost, c.auth["auth_url"]+"/auth/tokens", request, &answer)
	if err != nil || status != http.StatusCreated {
		return nil, fmt.Errorf("keystone: %d: %w", status, err)
	}
	c.token, c.project = header.Get("X-Subject-Token"), answer.Token.Project.ID
	for _, service := range answer.Token.Catalog {
		for _, endpoint := range service.Endpoints {
			if endpoint.Interface == "public" {
				c.services[service.Type] = endpoint.URL
			}
		}
	}
	c.services["identity"] = c.auth["auth_url"]
	c.services["network"] += "/v2.0"
	return c, nil
}

func (c *cloud) request(ctx context.Context, method, url string, body, into any) (http.Header, int, error) {
	var data io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, 0, err
		}
		data = bytes.NewReader(encoded)
	}
	r, err := http.NewRequestWithContext(ctx, method, url, data)
	if err != nil {
		return nil, 0, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Auth-Token", c.token)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && into != nil && answer.StatusCode < 300 {
		err = json.Unmarshal(text, into)
	}
	if err == nil && answer.StatusCode >= 300 && answer.StatusCode != http.StatusNotFound {
		err = fmt.Errorf("%s %s: %s: %s", method, url, answer.Status, text)
	}
	return answer.Header, answer.StatusCode, err
}

// do makes a request that must succeed; what is not there is only told by the status.
func (c *cloud) do(t *testing.T, method, service, path string, body, into any) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // t.Context is over when a test cleans up
	defer cancel()
	_, status, err := c.request(ctx, method, c.services[service]+path, body, into)
	require.NoError(t, err)
	return status
}

// thing is a server, security group, floating address or port.
type thing struct {
	ID, Name, Status, Description string
	Metadata                      map[string]string
	Address                       string `json:"floating_ip_address"`
	Port                          string `json:"port_id"`
	Rules                         []rule `json:"security_group_rules"`
}

type rule struct {
	Direction string
	Port      int    `json:"port_range_min"`
	Source    string `json:"remote_ip_prefix"`
	Group     string `json:"remote_group_id"`
}

func (c *cloud) list(t *testing.T, service, path, key string) []thing {
	t.Helper()
	answer := map[string]json.RawMessage{}
	c.do(t, http.MethodGet, service, path, nil, &answer)
	var things []thing
	require.NoError(t, json.Unmarshal(answer[key], &things))
	return things
}

func (c *cloud) servers(t *testing.T) []thing {
	t.Helper()
	return c.list(t, "compute", "/servers/detail", "servers")
}

func (c *cloud) groups(t *testing.T) []thing {
	t.Helper()
	return c.list(t, "network", "/security-groups?project_id="+c.project, "security_groups")
}

func (c *cloud) floating(t *testing.T) []thing {
	t.Helper()
	return c.list(t, "network", "/floatingips?project_id="+c.project, "floatingips")
}

// named are those whose name begins with this.
func named(things []thing, prefix string) []thing {
	var found []thing
	for _, one := range things {
		if strings.HasPrefix(one.Name, prefix) {
			found = append(found, one)
		}
	}
	return found
}

// create makes something, which goes when the test ends, and gives its id.
func (c *cloud) create(t *testing.T, service, path, kind string, what map[string]any) string {
	t.Helper()
	answer := map[string]thing{}
	c.do(t, http.MethodPost, service, path, map[string]any{kind: what}, &answer)
	id := answer[kind].ID
	require.NotEmpty(t, id)
	t.Cleanup(func() { c.remove(t, service, path+"/"+id) })
	return id
}

// remove removes something, and waits until it is gone.
func (c *cloud) remove(t *testing.T, service, path string) {
	t.Helper()
	c.do(t, http.MethodDelete, service, path, nil, nil)
	require.Eventually(t, func() bool { return c.do(t, http.MethodGet, service, path, nil, nil) == http.StatusNotFound }, patience, time.Second/2, path)
}
