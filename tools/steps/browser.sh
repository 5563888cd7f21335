# A browser for the test that opens the terminal's page in one: only `make test` wants it, so it is no part of the rest.

browser_step() {
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null && return 0
    say "installing chromium, for the test of the terminal's page"
    apt_update_once || die "apt-get update failed; without it chromium cannot be installed"
    apt_install chromium || die "apt-get install failed; see above"
}
