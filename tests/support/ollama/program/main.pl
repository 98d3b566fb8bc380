# The server, and the commands that ask it.

sub serve {
    note("INFO", "server config", env => quoted(configuration()));
    exit 0 if $ENV{STAND_IN_SETTINGS};
    make_path("$models/manifests", "$models/blobs");
    key();
    require File::Temp;
    $state = File::Temp::tempdir("stand-in-XXXXXX", TMPDIR => 1, CLEANUP => 1);
    $SIG{TERM} = $SIG{INT} = sub { exit 0 };
    prune();
    listed();
    my $server = IO::Socket::IP->new(LocalHost => $host eq "" ? "0.0.0.0" : $host, LocalPort => $port, Listen => 64,
        ReuseAddr => 1) or fail("listen tcp $host:$port: bind: $@");
    my $shown = $host =~ /:/ ? "[$host]" : $host eq "" ? "[::]" : $host;
    note("INFO", "Listening on $shown:" . $server->sockport . " (version $version)");
    tell_devices();
    local $SIG{CHLD} = "IGNORE";
    while (1) {
        my $accepted = $server->accept or next;
        next if fork;
        $SIG{TERM} = $SIG{INT} = $SIG{CHLD} = "DEFAULT";
        close $server;
        $client = $accepted;
        answer();
        close $client;
        exit 0;
    }
}

sub configuration {
    my $named = $host =~ /:/ ? "[$host]" : $host;
    my $alive = setting("OLLAMA_KEEP_ALIVE");
    return "map[" . join(" ",
        "OLLAMA_CONTEXT_LENGTH:" . number("OLLAMA_CONTEXT_LENGTH", 0),
        "OLLAMA_HOST:$scheme://$named:$port",
        "OLLAMA_KEEP_ALIVE:" . duration($alive eq "" ? 300 : keep_alive($alive)),
        "OLLAMA_LLM_LIBRARY:" . setting("OLLAMA_LLM_LIBRARY"),
        "OLLAMA_MODELS:$models",
        "OLLAMA_NOPRUNE:" . (flag("OLLAMA_NOPRUNE", 0) ? "true" : "false"),
        "OLLAMA_NO_CLOUD:" . (flag("OLLAMA_NO_CLOUD", 0) ? "true" : "false"),
        "OLLAMA_NUM_PARALLEL:" . (number("OLLAMA_NUM_PARALLEL", 0) || 1)) . "]";
}

sub key {
    my $path = "$home/.ollama/id_ed25519";
    return if -e $path;
    make_path("$home/.ollama");
    my $mask = umask 0077;
    write_file($path, unpack("H*", read_file("/dev/urandom", 32)) . "\n");
    umask $mask;
    write_file("$path.pub", "ssh-ed25519 stand-in\n");
}

sub answer {
    my ($method, $path, $headers, $text) = request();
    return unless defined $path;
    $ENV{REQUEST_METHOD} = $method;
    my $asked = $headers->{host} // "";
    return reply(403, "") unless allowed_host($asked) and allowed_origin($headers->{origin} // "", $asked);
    my $get = $method eq "GET" || $method eq "HEAD";
    return reply(200, "Ollama is running", "text/plain; charset=utf-8") if $get and $path eq "/";
    return reply(200, encode_json(object(version => $version))) if $get and $path eq "/api/version";
    return reply(200, encode_json(tags())) if $get and $path eq "/api/tags";
    return reply(200, encode_json(processes())) if $get and $path eq "/api/ps";
    return reply(200, encode_json(openai_models())) if $get and $path eq "/v1/models";
    return receive_blob($1, $method, $text) if $path =~ m{^/api/blobs/(sha256:[0-9a-f]{64})$};
    my %posts = ("/api/show" => \&show, "/api/pull" => \&answer_pull, "/api/create" => \&answer_create,
        "/api/generate" => sub { respond("generate", @_) }, "/api/chat" => sub { respond("chat", @_) },
        "/v1/chat/completions" => sub { respond("completions", @_) });
    my $post = $method eq "POST" ? $posts{$path} : undef;
    return reply(404, "404 page not found", "text/plain") unless $post;
    my $body = decode_json($text);
    return refuse(400, "invalid JSON") unless ref $body eq "HASH";
    $post->($body);
}

sub openai_models {
    my %found = listed();
    my @entries = map { object(id => $_, object => "model", created => count(0), owned_by => "library") } sort keys %found;
    return object(object => "list", data => \@entries);
}

sub show {
    my ($body) = @_;
    my $name = $body->{model} // $body->{name} // "";
    my %known = listed();
    my $found = $known{ canonical($name) } or return refuse(404, "model '$name' not found");
    my $said = "# To build a new Modelfile based on this, replace FROM with:\n# FROM " . canonical($name);
    reply(200, encode_json(object(modelfile => "$said\n\nFROM " . weights($found->{manifest}) . "\n", details => details($found->{manifest}))));
}

sub receive_blob {
    my ($digest, $method, $bytes) = @_;
    my $path = blob($digest);
    return reply(-e $path ? 200 : 404, "") if $method eq "HEAD";
    write_file("$path-received", $bytes);
    if ("sha256:" . sha256("$path-received") ne $digest) {
        unlink "$path-received";
        return refuse(400, "digest does not match blob data");
    }
    rename "$path-received", $path;
    reply(201, "");
}

# Lines of JSON while it goes on, or the last one alone.
sub with_progress {
    my ($body, $work) = @_;
    my $quiet = exists $body->{stream} && !${ $body->{stream} // \0 };
    my $say = $quiet ? sub { } : sub { send_part(encode_json(object(@_)) . "\n") };
    begin_stream("application/x-ndjson") unless $quiet;
    my $error = $work->($say);
    return $error ? refuse(500, $error) : reply(200, encode_json(object(status => "success"))) if $quiet;
    $say->($error ? (error => $error) : (status => "success"));
    end_stream();
}

sub answer_pull {
    my ($body) = @_;
    my $insecure = $body->{insecure} ? ${ $body->{insecure} } : 0;
    with_progress($body, sub { pull($body->{model} // $body->{name} // "", $insecure, $_[0]) });
}

sub answer_create {
    my ($body) = @_;
    with_progress($body, sub { my ($say) = @_; create($body, sub { $say->(status => $_[0]) }) });
}

# Commands

sub server {
    my ($method, $path, $body) = @_;
    my $named = $host =~ /:/ ? "[$host]" : $host =~ /^(0\.0\.0\.0)?$/ ? "127.0.0.1" : $host;
    my ($status, $headers, $handle) = ask($method, "http://$named:$port$path", {}, $body);
    fail("could not connect to a running Ollama instance") unless $status;
    return ($status, rest_of($handle));
}

sub last_word {
    my ($status, $text) = @_;
    my ($last) = map { decode_json($_) } grep { /\S/ } reverse split /\n/, $text;
    fail($last->{error}) if $last->{error};
}

sub list_models { print map { "$_->{name}\n" } @{ decode_json((server("GET", "/api/tags"))[1])->{models} } }

sub list_processes {
    for my $model (@{ decode_json((server("GET", "/api/ps"))[1])->{models} }) {
        my $percent = int($model->{size_vram} / $model->{size} * 100 + 0.5);
        my $where = $percent == 0 ? "100% CPU" : $percent == 100 ? "100% GPU" : (100 - $percent) . "%/$percent% CPU/GPU";
        print "$model->{name}  $where\n";
    }
}

sub create_model {
    my ($name, $option, $file) = @_;
    my ($source) = (read_file($file // "Modelfile") // fail("no Modelfile")) =~ /^\s*FROM\s+(\S+)/mi;
    my $digest = "sha256:" . sha256($source);
    my ($there) = server("HEAD", "/api/blobs/$digest");
    server("POST", "/api/blobs/$digest", read_file($source)) if $there != 200;
    last_word(server("POST", "/api/create", encode_json(object(model => $name, files => object("m.gguf" => $digest)))));
}

sub pull_model {
    my @names = grep { !/^--/ } @_;
    my $insecure = grep { $_ eq "--insecure" } @_;
    last_word(server("POST", "/api/pull", encode_json(object(model => $names[0], insecure => \($insecure ? 1 : 0)))));
}

my $command = shift // "";
if ($command eq "serve") { serve() }
elsif ($command eq "list") { list_models() }
elsif ($command eq "ps") { list_processes() }
elsif ($command eq "create") { create_model(@ARGV) }
elsif ($command eq "pull") { pull_model(@ARGV) }
elsif ($command eq "--version") { print "ollama version is $version\n" }
else { fail(qq(unknown command "$command" for "ollama")) }
