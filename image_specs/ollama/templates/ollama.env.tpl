# The instance's settings: whatever follows the first '=' is the value. Read whenever the services start.
SERVICE_ENABLED={{ config_get("user.anklume.ollama_service_enabled", properties.ollama_service_enabled) }}
HOST={{ config_get("user.anklume.ollama_host", properties.ollama_host) }}
KEEP_ALIVE={{ config_get("user.anklume.ollama_keep_alive", properties.ollama_keep_alive) }}
CONTEXT_LENGTH={{ config_get("user.anklume.ollama_context_length", properties.ollama_context_length) }}
NO_CLOUD={{ config_get("user.anklume.ollama_no_cloud", properties.ollama_no_cloud) }}
DEFAULT_MODEL={{ config_get("user.anklume.ollama_default_model", properties.ollama_default_model) }}
EXTRA_MODELS={{ config_get("user.anklume.ollama_extra_models", properties.ollama_extra_models) }}
