# Rendered by Incus at every start; change it with `incus config set INSTANCE user.anklume.nginx_port=8080`.
server {
    listen {{ config_get("user.anklume.nginx_port", properties.nginx_port) }};
    server_name {{ config_get("user.anklume.nginx_server_name", properties.nginx_server_name) }};
    root /usr/share/nginx/site;
}
