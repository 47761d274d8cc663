package web

import (
	"errors"
	"net/http"
	"slices"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/store"
)

// changePage is what the pages that ask before something is done show.
type changePage struct {
	CSRF     string
	Build    store.Invocation
	Secrets  []field // that a retry needs again
	Problems []link
	Trouble  *trouble
}

// Title is the build's first image.
func (p changePage) Title() string { return summary{Build: builds.Build{Invocation: p.Build}}.Title() }

func (s *server) cancel(w http.ResponseWriter, r *http.Request, who visitor) error {
	inv, err := s.config.Builds.Cancel(r.Context(), who.Principal, r.PathValue("id"))
	if err != nil {
		return err
	}
	http.Redirect(w, r, "/builds/"+inv.ID, http.StatusSeeOther)
	return nil
}

func (s *server) deleteForm(w http.ResponseWriter, r *http.Request, who visitor) error {
	inv, err := s.config.Builds.Status(r.Context(), who.Principal, r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.show(w, http.StatusOK, "delete", frame{Title: "Delete a build", Section: "builds", Who: who, Page: changePage{CSRF: who.CSRF, Build: inv}})
}

func (s *server) delete(w http.ResponseWriter, r *http.Request, who visitor) error {
	if err := s.config.Builds.Delete(r.Context(), who.Principal, r.PathValue("id")); err != nil {
		return err
	}
	http.Redirect(w, r, "/builds", http.StatusSeeOther)
	return nil
}

func (s *server) retryForm(w http.ResponseWriter, r *http.Request, who visitor) error {
	inv, err := s.config.Builds.Status(r.Context(), who.Principal, r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.showRetry(w, r, http.StatusOK, who, inv, nil)
}

func (s *server) retry(w http.ResponseWriter, r *http.Request, who visitor) error {
	old, err := s.config.Builds.Status(r.Context(), who.Principal, r.PathValue("id"))
	if err != nil {
		return err
	}
	pointers, err := builds.Secrets(old)
	if err != nil {
		return err
	}
	secrets := map[string]string{}
	for _, pointer := range pointers {
		if value := r.PostForm.Get(pointer); value != "" {
			secrets[pointer] = value
		}
	}
	inv, err := s.config.Builds.Retry(r.Context(), who.Principal, old.ID, secrets)
	if err != nil {
		status, t := s.explain(w, r, err)
		if status == http.StatusNotFound || status >= http.StatusInternalServerError {
			return err
		}
		var conflict *builds.ConflictError
		if errors.As(err, &conflict) && len(conflict.Pointers) > 0 {
			t = trouble{Title: "Secrets are missing", Message: "Type in all of them: what is missing is marked."}
			for _, pointer := range conflict.Pointers {
				t.Problems = append(t.Problems, fault.Problem{Pointer: pointer, Message: "is missing"})
			}
		}
		return s.showRetry(w, r, status, who, old, &t)
	}
	http.Redirect(w, r, "/builds/"+inv.ID, http.StatusSeeOther)
	return nil
}

func (s *server) showRetry(w http.ResponseWriter, r *http.Request, status int, who visitor, inv store.Invocation, t *trouble) error {
	pointers, err := builds.Secrets(inv)
	if err != nil {
		return err
	}
	p := changePage{CSRF: who.CSRF, Build: inv, Trouble: t}
	var found []fault.Problem
	if t != nil {
		found = t.Problems
	}
	for _, pointer := range pointers {
		f := field{Pointer: pointer, Label: pointer, Input: inputSecret, Must: true}
		if slices.Contains([]string{"/target/registry/ca_cert"}, pointer) {
			f.Input = inputPEM
		}
		p.Secrets = append(p.Secrets, f)
	}
	p.Secrets = fill(p.Secrets, r.PostForm, newProblems(found))
	for i := range p.Secrets {
		p.Secrets[i].Value = ""
	}
	return s.show(w, status, "retry", frame{Title: "Retry a build", Section: "builds", Who: who, Page: p})
}
