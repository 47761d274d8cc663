// Package client calls the REST API of image-builder. It is generated from schemas/openapi.yaml, which says what everything means.
//
//	c, err := client.NewClientWithResponses("https://builds.example.com", client.WithRequestEditorFn(client.APIKey(key)))
//	accepted, err := c.SubmitInvocationWithResponse(ctx, nil, client.SubmitRequest{BuildParams: document})
//	build, err := c.GetInvocationWithResponse(ctx, accepted.JSON202.ID)
//
// Answers that are errors are found in fields as ApplicationProblemJSON400. GetLog of Client gives the log as it grows; Events reads it.
package client
