package engine

import (
	"net"
	"time"
)

// A link that is cut without a reset is noticed after linkTimeout when bytes are on their way, and after
// keepAlive.Idle + Count × Interval when none are. Both work below gRPC, so a silent RUN is no
// reason to give up: a healthy kernel at the other end answers. Measured: an error 10.6 s after the cut.
const linkTimeout = 10 * time.Second

var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 4 * time.Second, Interval: 2 * time.Second, Count: 3}

func watchedDialer() *net.Dialer {
	return &net.Dialer{Timeout: answerWithin, KeepAliveConfig: keepAlive, Control: limitUnacknowledged}
}
