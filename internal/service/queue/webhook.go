package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/riverqueue/river"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"imagebuilder/internal/egress"
	"imagebuilder/internal/result"
	"imagebuilder/internal/service/store"
)

const (
	// deliveryTime is what a receiver gets to answer; Standard Webhooks recommend 15 to 30 s.
	deliveryTime = 15 * time.Second
	// answerSize is what is read of an answer, for the sake of the connection: what it says does not matter.
	answerSize = 4 << 10
)

// retryDelivery is the schedule that Standard Webhooks recommend: a receiver may be away for three days.
func retryDelivery(tries int) (time.Duration, bool) {
	waits := []time.Duration{
		5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
	}
	if tries > len(waits) {
		return 0, false
	}
	return waits[tries-1], true
}

// deliverer tells webhooks what has happened, at least once.
type deliverer struct {
	river.WorkerDefaults[store.Delivery]
	worker *Worker
	client *http.Client
}

func newDeliverer(w *Worker) *deliverer {
	transport := &http.Transport{
		MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: deliveryTime, ForceAttemptHTTP2: true,
		MaxResponseHeaderBytes: answerSize,
	}
	return &deliverer{worker: w, client: &http.Client{
		Transport: w.config.Egress.For("webhook").Transport(transport), Timeout: deliveryTime,
		// A redirect is an answer like any other that is not a success: the receiver's owner names another URL.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// message is what a receiver gets. It holds no secret, and no more of the build than its caller may ask for.
type message struct {
	Type      string      `json:"type"`
	Timestamp time.Time   `json:"timestamp"` // of the change
	Data      messageData `json:"data"`
}

type messageData struct {
	ID      string         `json:"id"`
	State   store.State    `json:"state"`
	Attempt int            `json:"attempt"`
	Reason  store.Reason   `json:"reason,omitempty"`
	Images  []messageImage `json:"images"`
}

type messageImage struct {
	Image  string `json:"image"`            // registry/repository:tag
	Digest string `json:"digest,omitempty"` // of what was pushed
}

// NextRetry implements river.Worker.
func (d *deliverer) NextRetry(job *river.Job[store.Delivery]) time.Time {
	wait, _ := d.worker.config.WebhookRetry(job.Attempt)
	return d.worker.now().Add(wait)
}

// Timeout implements river.Worker.
func (d *deliverer) Timeout(*river.Job[store.Delivery]) time.Duration { return 2 * deliveryTime }

// Work delivers one message. An error has River try again; a receiver that can never be reached, or wants nothing more, does not.
func (d *deliverer) Work(ctx context.Context, job *river.Job[store.Delivery]) error {
	inv, err := d.worker.config.Store.Get(ctx, job.Args.InvocationID)
	if errors.Is(err, store.ErrNotFound) || err == nil && inv.Webhook == nil {
		return nil // it was deleted
	}
	if err != nil {
		return err
	}
	final, err := d.deliver(ctx, inv, job.Args)
	d.worker.config.Observer.Delivered(ctx, err)
	if err == nil {
		return nil
	}
	_, more := d.worker.config.WebhookRetry(job.Attempt)
	if final || !more {
		d.worker.logger.Warn("a webhook was given up", "invocation_id", inv.ID, "tries", job.Attempt, "error", err)
		return river.JobCancel(err)
	}
	return err
}

// deliver sends a message once. final tells that another try is no use.
func (d *deliverer) deliver(ctx context.Context, inv store.Invocation, change store.Delivery) (final bool, err error) {
	body := mustJSON(messageOf(inv, change))
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, inv.Webhook.URL, bytes.NewReader(body))
	if err != nil {
		return true, errors.New("the webhook's URL cannot be parsed") // it may hold something secret
	}
	id, now := inv.ID+"."+strconv.Itoa(change.Attempt)+"."+string(change.State), d.worker.now()
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "image-builder")
	request.Header.Set(standardwebhooks.HeaderWebhookID, id)
	request.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	if len(inv.Webhook.Secret) > 0 {
		signature, err := d.sign(inv, id, now, body)
		if err != nil {
			return false, err
		}
		request.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	}
	response, err := d.client.Do(request)
	if err != nil {
		return errors.Is(err, egress.ErrRefused), withoutURL(err)
	}
	defer response.Body.Close()
	_, _ = io.CopyN(io.Discard, response.Body, answerSize)
	switch {
	case response.StatusCode/100 == 2:
		return false, nil
	case response.StatusCode == http.StatusGone: // Standard Webhooks: the receiver wants no more
		return true, errors.New("the webhook answered 410 Gone")
	default:
		return false, fmt.Errorf("the webhook answered %d", response.StatusCode)
	}
}

func (d *deliverer) sign(inv store.Invocation, id string, now time.Time, body []byte) (string, error) {
	secret, err := d.worker.config.Opener.Open(inv.ID, inv.Webhook.Secret)
	if err != nil {
		return "", err
	}
	signer, err := standardwebhooks.NewWebhook(string(secret))
	if err != nil {
		return "", errors.New("sign a webhook: its secret is not base64")
	}
	signature, err := signer.Sign(id, now, body)
	if err != nil {
		return "", fmt.Errorf("sign a webhook: %w", err)
	}
	return signature, nil
}

// withoutURL is an error of an HTTP client without the URL, which may hold something secret.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return fmt.Errorf("call the webhook: %w", u.Err)
	}
	return err
}

func messageOf(inv store.Invocation, change store.Delivery) message {
	m := message{Type: "invocation.state_changed", Timestamp: change.At.UTC(), Data: messageData{
		ID: inv.ID, State: change.State, Attempt: change.Attempt, Images: []messageImage{},
	}}
	digests := map[string]string{}
	if change.State.Ended() {
		m.Data.Reason = inv.Reason
		var r result.Result
		if len(inv.Result) > 0 && json.Unmarshal(inv.Result, &r) == nil {
			for _, image := range r.Images {
				digests[image.Ref] = image.Digest
			}
		}
	}
	for _, ref := range inv.Images {
		m.Data.Images = append(m.Data.Images, messageImage{ref, digests[ref]})
	}
	return m
}
