# Models at work. They repeat what they are asked, and say that a token took half a millisecond. Names tell what happens:
# `too-large` has no room on a card, `half-large` has it in part, `dies` ends its runner, `slow` waits ten minutes after
# each token. What is told of sizes is SmolLM2-135M's.

our $TOKEN = 500_000;  # nanoseconds

sub load {
    my ($name, $keep) = @_;
    my $device = device();
    my $parallel = number("OLLAMA_NUM_PARALLEL", 0) || 1;
    note("INFO", "starting llama-server", cmd => quoted("$libraries/llama-server -c " . $context * $parallel
        . " -np $parallel")) if loaded_name() ne $name;
    my ($size, $on_card) = $device eq "cpu" ? (287246908, 0) : (325708676, 325708676);
    if ($name =~ /^too-large:/ and $device ne "cpu") {
        my $failed = "alloc_tensor_range: failed to allocate ${device}0 buffer of size 42949672960";
        my $said = $device eq "CUDA" ? "cudaMalloc failed: out of memory" : "ErrorOutOfDeviceMemory";
        my $who = $device eq "CUDA" ? "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 40960.00 MiB on device 0"
            : "ggml_vulkan: vk::Device::allocateMemory";
        print STDERR "$who: $said\n$failed\n";
        note("WARN", "llama-server reported out-of-memory during startup: $said");
        return "llama-server process has terminated: exit status 1: " . ($device eq "CUDA" ? $said : $failed);
    }
    return "llama-server process has terminated: signal: killed" if $name =~ /^dies:/;
    if ($device ne "cpu" and loaded_name() ne $name) {
        my $layers = 31;
        if ($name =~ /^half-large:/) {
            print STDERR "common_params_fit_impl: projected to use 2991 MiB of device memory vs. 2048 MiB of free device "
                . "memory\n";
            ($layers, $size, $on_card) = (10, 3246145640, 1069977435);
        }
        my %known = listed();
        print STDERR "llama_model_loader: loaded meta data with 35 key-value pairs and 272 tensors from "
            . weights($known{$name}{manifest}) . " (version GGUF V3 (latest))\n";
        print STDERR "load_tensors: offloaded $layers/31 layers to GPU\n";
        print STDERR "load_tensors:   CPU_Mapped model buffer size =    28.12 MiB\n";
        printf STDERR "load_tensors:      %s0 model buffer size =    %.2f MiB\n", $device, $layers == 31 ? 87.74 : 28.3;
    }
    ($size, $on_card) = (3246145640, 1069977435) if $name =~ /^half-large:/ and $device ne "cpu";
    my $until = $keep < 0 ? 4102444800 : time + $keep;
    $keep ? write_file("$state/loaded", "$name\n$size\n$on_card\n$until\n") : unlink "$state/loaded";
    return "";
}

# Name, size, bytes on a card and the end of its time.
sub loaded {
    my @found = split /\n/, read_file("$state/loaded") // "";
    return @found && $found[3] > time ? @found : ();
}

sub loaded_name { return (loaded())[0] // "" }

sub processes {
    my ($name, $size, $on_card, $until) = loaded() or return object(models => []);
    my %known = listed();
    my $found = $known{$name} // {};
    return object(models => [object(name => $name, model => $name, size => count($size),
        digest => $found->{path} ? sha256($found->{path}) : "", details => details($found->{manifest} // {}),
        expires_at => now($until), size_vram => count($on_card), context_length => count($context))]);
}

# What a model says, in tokens; the end is one of them. `open` is a base model, which finds no end.
sub tokens {
    my ($prompt, $most, $open) = @_;
    my @found = "stand-in: $prompt" =~ /\s*\S{1,5}|\s+$/g;
    if ($open) {
        my $count = $most > 0 ? $most : 10 * $context;
        push @found, (" and") x ($count > @found ? $count - @found : 0);
    }
    my $cut = $most > 0 && @found >= $most;
    return ($cut || $open ? "length" : "stop", $cut ? @found[0 .. $most - 1] : @found);
}

sub figures {
    my ($count, $prompt) = @_;
    my $spent = $TOKEN * $count;
    my $asked = 1 + int(length($prompt) / 4);
    return (total_duration => count($spent + 3_000_000), load_duration => count(1_000_000),
        prompt_eval_count => count($asked), prompt_eval_duration => count(2_000_000), eval_count => count($count),
        eval_duration => count($spent));
}

# The three ways to ask: which part of a body is the prompt, and what a piece of an answer looks like.
sub respond {
    my ($way, $body) = @_;
    my ($name, $openai) = ($body->{model} // $body->{name} // "", $way eq "completions");
    my %known = listed();
    my $found = $known{ canonical($name) } or return refused($openai, 404, "model '$name' not found");
    my $model = layer($found->{manifest}, "model");
    my $verb = $way eq "generate" ? "generate" : "chat";
    return refused($openai, 400, qq("$name" does not support $verb)) unless $model and -e blob($model->{digest});
    my $alive = $body->{keep_alive} // setting("OLLAMA_KEEP_ALIVE");
    my $error = load(canonical($name), $alive eq "" ? 300 : keep_alive($alive));
    return refused($openai, 500, $error) if $error;
    my $asked = $way eq "generate" ? $body->{prompt} // "" : (map { $_->{content} } @{ $body->{messages} // [] })[-1] // "";
    my $most = $openai ? $body->{max_tokens} // -1 : $body->{options}{num_predict} // -1;
    my $open = $way ne "generate" && !layer($found->{manifest}, "template");
    my ($reason, @said) = tokens($asked, $most, $open);
    my $count = @said + ($reason eq "stop" ? 1 : 0);
    my $stream = exists $body->{stream} ? ${ $body->{stream} // \0 } : !$openai;
    return as_openai($name, $reason, \@said, $count, $asked, $body, $stream) if $openai;
    my $piece = sub {
        my ($text, @rest) = @_;
        my @said = $way eq "generate" ? (response => $text) : (message => object(role => "assistant", content => $text));
        return encode_json(object(model => $name, created_at => now(), @said, @rest));
    };
    my @end = (done => \1, done_reason => $reason, figures($count, $asked));
    return reply(200, $piece->(join("", @said), @end)) unless $stream;
    begin_stream("application/x-ndjson");
    for my $text (@said) {
        send_part($piece->($text, done => \0) . "\n");
        breathe($name);
    }
    send_part($piece->("", @end) . "\n");
    end_stream();
}

sub breathe { sleep 600 if $_[0] =~ /^slow(:|$)/ }

sub refused {
    my ($openai, $status, $error) = @_;
    return refuse($status, $error) unless $openai;
    my $type = $status == 404 ? "not_found_error" : $status == 400 ? "invalid_request_error" : "api_error";
    my $told = object(message => $error, type => $type, param => undef, code => undef);
    reply($status, encode_json(object(error => $told)));
}

sub as_openai {
    my ($name, $reason, $said, $count, $asked, $body, $stream) = @_;
    my $prompted = 1 + int(length($asked) / 4);
    my $usage = object(prompt_tokens => count($prompted), completion_tokens => count($count),
        total_tokens => count($prompted + $count));
    my @head = (id => "chatcmpl-1", object => $stream ? "chat.completion.chunk" : "chat.completion",
        created => count(time), model => $name, system_fingerprint => "fp_ollama");
    my $choice = sub {
        my ($key, $text, $finish) = @_;
        return object(index => count(0), $key => object(role => "assistant", content => $text), finish_reason => $finish);
    };
    my $whole = $choice->("message", join("", @$said), $reason);
    return reply(200, encode_json(object(@head, choices => [$whole], usage => $usage))) unless $stream;
    begin_stream("text/event-stream");
    my $event = sub { send_part("data: " . encode_json(object(@head, @_)) . "\n\n") };
    for my $text (@$said) {
        $event->(choices => [$choice->("delta", $text, undef)]);
        breathe($name);
    }
    $event->(choices => [$choice->("delta", "", $reason)]);
    my $wanted = ref $body->{stream_options} eq "HASH" ? $body->{stream_options}{include_usage} : undef;
    $event->(choices => [], usage => $usage) if $wanted and $$wanted;
    send_part("data: [DONE]\n\n");
    end_stream();
}

