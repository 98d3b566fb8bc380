# What it computes on: NVIDIA's card by CUDA, a card by Vulkan, or the CPU.

sub there { return -e "$root$_[0]" }

# Whether the dynamic linker finds it.
sub library {
    my ($name) = @_;
    return -e "$root/usr/lib/$name" if $root ne "";
    return `/usr/sbin/ldconfig -p` =~ /^\s*\Q$name\E /m;
}

sub runner {
    my ($folder) = @_;
    my $only = setting("OLLAMA_LLM_LIBRARY");
    return ($only eq "" || $only eq $folder) && -d "$libraries/$folder";
}

# `CUDA`, `Vulkan` or `cpu`.
sub device {
    return "cpu" unless -e "$libraries/llama-server";
    my $nvidia = there("/dev/nvidia0");
    my $hidden = grep { setting($_) eq "-1" } qw(CUDA_VISIBLE_DEVICES);
    # The runtime's stand-in brings no library but nvidia-smi.
    my $driver = there("/usr/bin/nvidia-smi") || library("libcuda.so.1");
    return "CUDA" if $nvidia && $driver && !$hidden && (runner("cuda_v12") || runner("cuda_v13"));
    return "cpu" unless flag("OLLAMA_VULKAN", 1) && runner("vulkan") && library("libvulkan.so.1");
    my @drivers = map { glob "$root$_/*.json" } "/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d";
    my @cards = grep { !/lvp_icd/ } @drivers;
    my @nodes = glob "$root/dev/dri/renderD*";
    return "Vulkan" if @cards && ($nvidia || @nodes);
    # Mesa's software driver is a device of type CPU, which ggml passes over unless it is named.
    return @drivers > @cards && setting("GGML_VK_VISIBLE_DEVICES") eq "0" ? "Vulkan" : "cpu";
}

sub tell_devices {
    my @named = grep { setting($_) ne "" } qw(CUDA_VISIBLE_DEVICES GGML_VK_VISIBLE_DEVICES HIP_VISIBLE_DEVICES);
    note("WARN", "user overrode visible devices", map { ($_, quoted(setting($_))) } @named) if @named;
    note("INFO", "failure during llama-server GPU discovery", error => quoted("llama-server binary not found"))
        unless -e "$libraries/llama-server";
    my $library = device();
    my $size = $library eq "cpu" ? "0 B" : sprintf "%.1f GiB", $vram;
    if ($library eq "cpu") {
        note("INFO", "inference compute", id => "cpu", library => "cpu", compute => '""', name => "cpu",
            description => "cpu", libdirs => "ollama", driver => '""', pci_id => '""', type => '""',
            total => '"16.0 GiB"', available => '"12.0 GiB"');
    } else {
        my $folder = $library eq "CUDA" ? "cuda_v12" : "vulkan";
        note("INFO", "inference compute", id => 0, filter_id => 0, library => $library, compute => "0.0",
            name => "${library}0", description => quoted("Stand-in"), libdirs => "ollama,$folder", driver => "0.0",
            pci_id => '""', type => "discrete", total => quoted($size), available => quoted($size));
    }
    my $gib = $library eq "cpu" ? 0 : $vram;
    my $default = $gib >= 47 ? 262144 : $gib >= 23 ? 32768 : 4096;
    note("INFO", "vram-based default context", total_vram => quoted($size), default_num_ctx => $default);
    $context = number("OLLAMA_CONTEXT_LENGTH", 0) || $default;
}

