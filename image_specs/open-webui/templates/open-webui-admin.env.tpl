{% if config_get("user.anklume.open_webui_admin_password", properties.open_webui_admin_password) != "" %}
EMAIL={{ config_get("user.anklume.open_webui_admin_email", properties.open_webui_admin_email) }}
NAME={{ config_get("user.anklume.open_webui_admin_name", properties.open_webui_admin_name) }}
PASSWORD={{ config_get("user.anklume.open_webui_admin_password", properties.open_webui_admin_password) }}
{% endif %}
