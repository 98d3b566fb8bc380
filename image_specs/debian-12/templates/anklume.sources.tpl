# Set user.anklume.apt_mirror to an address that has debian/ and debian-security/ below it.
{% if config_get("user.anklume.apt_mirror", properties.apt_mirror) != "" %}
Types: deb
URIs: {{ config_get("user.anklume.apt_mirror", properties.apt_mirror) }}/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: {{ config_get("user.anklume.apt_mirror", properties.apt_mirror) }}/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
{% endif %}
