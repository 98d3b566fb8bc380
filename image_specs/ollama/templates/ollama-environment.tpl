{% if config_get("user.anklume.ollama_proxy", "") != "" %}HTTPS_PROXY={{ config_get("user.anklume.ollama_proxy", "") }}{% endif %}
{{ config_get("user.anklume.ollama_environment", properties.ollama_environment) }}
