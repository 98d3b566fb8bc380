{{ config_get("user.anklume.ollama_ca", properties.ollama_ca) }}
