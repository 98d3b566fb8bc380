# Models on disk: manifests and blobs.

our $MANIFEST = "application/vnd.docker.distribution.manifest.v2+json";
our $CONFIG = "application/vnd.docker.container.image.v1+json";
our $LAYER = "application/vnd.ollama.image";

# Registry, namespace, model and tag of a name; a scheme is told beside it.
sub parts {
    my ($name) = @_;
    $name =~ s{^\w+://}{};
    my @parts = split m{/}, $name;
    my ($model, $tag) = split /:/, pop @parts // "";
    my $space = pop(@parts) // "library";
    my $registry = pop(@parts) // "registry.ollama.ai";
    return ($registry, $space, $model // "", $tag // "latest");
}

sub canonical {
    my ($registry, $space, $model, $tag) = parts($_[0]);
    return "$model:$tag" if $registry eq "registry.ollama.ai" and $space eq "library";
    return "$space/$model:$tag" if $registry eq "registry.ollama.ai";
    return "$registry/$space/$model:$tag";
}

sub manifest_path { return join "/", "$models/manifests", parts($_[0]) }

sub blob {
    my ($digest) = @_;
    return "$models/blobs/" . ($digest =~ s/^sha256:/sha256-/r);
}

sub manifest {
    my ($path) = @_;
    my $found = decode_json(read_file($path));
    return ref $found eq "HASH" && ref $found->{layers} eq "ARRAY" ? $found : undef;
}

sub layer {
    my ($manifest, $kind) = @_;
    my ($found) = grep { ($_->{mediaType} // "") eq "$LAYER.$kind" } @{ $manifest->{layers} };
    return $found;
}

# The file of a model's weights.
sub weights { return blob((layer($_[0], "model") // {})->{digest} // "") }

# The models that it knows: by their manifests, with the blob of the config, or once listed with it since the start.
sub listed {
    my %found;
    for my $path (glob "$models/manifests/*/*/*/*") {
        my $manifest = manifest($path) or next;
        my $name = $path =~ s{^\Q$models\E/manifests/}{}r;
        my $mark = "$state/" . ($name =~ s{/}{%}gr);
        $name =~ s{/([^/]*)$}{:$1};
        if (-e blob($manifest->{config}{digest} // "none")) { write_file($mark, "") if $state }
        elsif (!$state || !-e $mark) { next }
        $found{ canonical($name) } = { path => $path, manifest => $manifest };
    }
    return %found;
}

sub details {
    my ($manifest) = @_;
    my $config = decode_json(read_file(blob($manifest->{config}{digest} // "none"))) // {};
    return object(parent_model => "", format => $config->{model_format} // "gguf", family => $config->{model_family},
        families => $config->{model_families}, parameter_size => $config->{model_type},
        quantization_level => $config->{file_type});
}

sub tags {
    my %found = listed();
    my @entries;
    for my $name (sort keys %found) {
        my ($path, $manifest) = @{ $found{$name} }{qw(path manifest)};
        my $size = 0;
        $size += $_->{size} // 0 for @{ $manifest->{layers} }, $manifest->{config};
        push @entries, object(name => $name, model => $name, modified_at => now((stat $path)[9]), size => count($size),
            digest => sha256($path), details => details($manifest));
    }
    return object(models => \@entries);
}

# Unreferenced blobs and partial ones that are older than an hour, and empty folders of manifests.
sub prune {
    return if flag("OLLAMA_NOPRUNE", 0);
    my %wanted;
    for my $path (glob "$models/manifests/*/*/*/*") {
        my $manifest = manifest($path);
        if (!$manifest) {
            note("WARN", "skipping pruning: bad manifest", path => quoted($path));
            return;
        }
        $wanted{ blob($_->{digest} // "") } = 1 for @{ $manifest->{layers} }, $manifest->{config};
    }
    for my $path (glob "$models/blobs/*") {
        unlink $path if !$wanted{$path} and time - (stat $path)[9] > 3600;
    }
    for my $depth ("*/*/*", "*/*", "*") { rmdir $_ for glob "$models/manifests/$depth" }
}

# Write bytes as a blob; its digest and size as a manifest has them.
sub add_blob {
    my ($kind, $text) = @_;
    my $path = "$models/blobs/.new-$$";
    write_file($path, $text);
    my $digest = sha256($path);
    rename $path, blob("sha256:$digest");
    return object(mediaType => $kind, digest => "sha256:$digest", size => count(length $text));
}

sub create {
    my ($body, $say) = @_;
    my ($source) = ref $body->{files} eq "HASH" ? values %{ $body->{files} } : ();
    return "neither 'from' or 'files' was specified" unless $source;
    my $original = blob($source);
    return "blob $source does not exist" unless -e $original;
    $say->("parsing GGUF");
    my $head = read_file($original, 8 << 20);
    return "invalid file magic" unless $head =~ /^GGUF/;
    my $quantize = "$libraries/llama-quantize";
    return "llama-quantize binary not found: $quantize" unless -x $quantize;
    my $copy = "$models/blobs/.copy-$$";
    return "llama-quantize failed" if system { $quantize } $quantize, $original, $copy, "COPY";
    my $model = object(mediaType => "$LAYER.model", digest => "sha256:" . sha256($copy), size => count(-s $copy));
    rename $copy, blob("sha256:" . sha256($copy));
    $say->("creating new layer");
    my @layers = ($model);
    # As it comes out for SmolLM2-135M-Instruct.
    if ($head =~ /tokenizer\.chat_template/) {
        my $template = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n";
        push @layers, add_blob("$LAYER.template", $template);
        push @layers, add_blob("$LAYER.params", '{"stop":["<|im_start|>","<|im_end|>"]}');
    }
    my $config = add_blob($CONFIG, encode_json(object(model_format => "gguf", model_family => "llama",
        model_families => ["llama"], model_type => "134.52M", file_type => "Q4_1", architecture => "amd64",
        os => "linux")) . "\n");
    $say->("writing manifest");
    write_manifest($body->{model} // $body->{name}, encode_json(object(schemaVersion => count(2), mediaType => $MANIFEST,
        config => $config, layers => \@layers)));
    return "";
}

sub write_manifest {
    my ($name, $text) = @_;
    my $path = manifest_path($name);
    make_path(dirname($path));
    write_file($path, $text);
}

