package buildparams

// NormalPlatform is the normal form of a platform, as documents have it: linux/aarch64 is linux/arm64. It takes only what
// names both system and architecture, and both of kinds that exist; the error goes on after the platform's name.
func NormalPlatform(s string) (string, error) { return normalPlatform(s) }
