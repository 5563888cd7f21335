# The distribution's packages: installs what is missing and nothing else. Not here: CRIU where apt's is too old (criu.sh).

APT_PACKAGES=(redis-server gcc libc6-dev make iproute2 nftables python3 python3-venv ca-certificates procps mmdebstrap)
APT_UPDATED=

apt_step() {
    local package missing=() had_redis=yes
    for package in "${APT_PACKAGES[@]}"; do apt_has "$package" || missing+=("$package"); done
    ((${#missing[@]})) || return 0
    apt_has redis-server || had_redis=
    say "installing ${missing[*]}"
    apt_update_once || die "apt-get update failed; without it these cannot be installed: ${missing[*]}"
    apt_install "${missing[@]}" || die "apt-get install failed; see above"
    # Quilt runs a Redis of its own on a socket of its own: the distribution's service stays off where we brought it.
    if [[ -z $had_redis && -d /run/systemd/system ]]; then
        quietly "switching off the redis-server service" systemctl disable --now redis-server.service || true
    elif [[ -z $had_redis && -x /usr/sbin/update-rc.d ]]; then
        update-rc.d redis-server disable >/dev/null 2>&1 || true
    fi
}

apt_has() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

apt_update_once() {
    [[ -n $APT_UPDATED ]] && return 0
    quietly "apt-get update" apt-get -q -o Acquire::Retries=3 update && APT_UPDATED=yes
}

# Installs without starting any service: invoke-rc.d obeys a policy-rc.d that says 101.
apt_install() {
    local policy=/usr/sbin/policy-rc.d ours= status=0
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && ours=yes
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    quietly "apt-get install" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get -q -y -o Acquire::Retries=3 -o Dpkg::Lock::Timeout=300 install --no-install-recommends "$@" || status=$?
    if [[ -n $ours ]]; then
        rm -f "$policy"
        trap - EXIT
    fi
    return "$status"
}

# The site from which this machine gets its own release, so that no host is named here.
debian_site() {
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(SITE)' 'Created-By: Packages' |
        awk -v release="$codename" '$2 == "main" && $1 == release {print $3; found = 1; exit} END {exit !found}'
}

debian_keyring() {
    local all=/usr/share/keyrings/debian-archive-keyring.gpg
    if [[ ! -e /usr/share/keyrings/debian-archive-$CRIU_SUITE-stable.gpg ]]; then
        apt_update_once && apt_install debian-archive-keyring || return 1
    fi
    [[ -e $all ]] && echo "$all"
}
