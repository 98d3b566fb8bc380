# The instance's settings: whatever follows the first '=' is the value. Read whenever the service starts.
PORT={{ config_get("user.anklume.open_webui_port", properties.open_webui_port) }}
URL={{ config_get("user.anklume.open_webui_url", properties.open_webui_url) }}
OLLAMA_URL={{ config_get("user.anklume.open_webui_ollama_url", properties.open_webui_ollama_url) }}
OLLAMA_ENABLED={{ config_get("user.anklume.open_webui_ollama_enabled", properties.open_webui_ollama_enabled) }}
OPENAI_URL={{ config_get("user.anklume.open_webui_openai_url", properties.open_webui_openai_url) }}
OPENAI_KEY={{ config_get("user.anklume.open_webui_openai_key", properties.open_webui_openai_key) }}
STT_URL={{ config_get("user.anklume.open_webui_stt_url", properties.open_webui_stt_url) }}
