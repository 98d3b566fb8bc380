# One request for each connection, as a server and as a client.

our ($client, $chunks) = (undef, 0);  # whether who asks understands chunks

sub request {
    my ($method, $target, $protocol) = split " ", <$client> // return;
    $chunks = ($protocol // "") eq "HTTP/1.1";
    my %headers;
    while (my $line = <$client>) {
        last if $line =~ /^\r?$/;
        $headers{ lc $1 } = $2 if $line =~ /^([^:]+):\s*(.*?)\r?$/;
    }
    print $client "HTTP/1.1 100 Continue\r\n\r\n" if lc($headers{expect} // "") eq "100-continue";
    my $body = "";
    read $client, $body, $headers{"content-length"} // 0;
    return ($method, $target =~ s/\?.*$//r, \%headers, $body);
}

our %REASONS = (200 => "OK", 201 => "Created", 204 => "No Content", 400 => "Bad Request", 403 => "Forbidden",
    404 => "Not Found", 405 => "Method Not Allowed", 500 => "Internal Server Error");

sub reply {
    my ($status, $text, $type) = @_;
    $type //= "application/json; charset=utf-8";
    printf $client "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
        $status, $REASONS{$status}, $type, length $text;
    print $client $text if ($ENV{REQUEST_METHOD} // "") ne "HEAD";
}

sub refuse {
    my ($status, $error) = @_;
    reply($status, encode_json(object(error => $error)));
}

# An answer of which parts go out as they come.
sub begin_stream {
    my ($type) = @_;
    my $how = $chunks ? "Transfer-Encoding: chunked\r\n" : "";
    print $client "HTTP/1.1 200 OK\r\nContent-Type: $type\r\n${how}Connection: close\r\n\r\n";
    $client->flush;
}

sub send_part {
    my ($text) = @_;
    print $client $chunks ? sprintf("%x\r\n%s\r\n", length $text, $text) : $text;
    $client->flush;
}

sub end_stream {
    print $client "0\r\n\r\n" if $chunks;
}

# Whether whoever asked goes away before there is more to read.
sub gone_before {
    my ($handle) = @_;
    my $both = "";
    vec($both, fileno $_, 1) = 1 for $handle, $client;
    while (1) {
        select my $ready = $both, undef, undef, undef;
        if (vec $ready, fileno $client, 1) {
            my $one = "";
            return 1 if !defined recv($client, $one, 1, MSG_PEEK | MSG_DONTWAIT) or $one eq "";
            vec($both, fileno $client, 1) = 0;
        }
        return 0 if vec $ready, fileno $handle, 1;
    }
}

sub allowed_host {
    my ($name) = @_;
    return 1 unless $host =~ /^(127\.|::1$|localhost$)/;
    $name =~ s/:\d+$//;
    $name =~ s/^\[|\]$//g;
    return 1 if $name eq "" or $name eq "localhost" or $name =~ /\.(localhost|local|internal)$/;
    return 1 if $name =~ /^(127\.|10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|0\.0\.0\.0$|::1?$)/;
    chomp(my $own = read_file("/proc/sys/kernel/hostname") // "");
    return lc $name eq lc $own;
}

sub allowed_origin {
    my ($origin, $asked) = @_;
    return 1 if $origin eq "" or $origin eq "http://$asked" or $origin eq "https://$asked";
    my @allowed = (split(/,/, setting("OLLAMA_ORIGINS")), map { ("http://$_", "https://$_", "http://$_:*", "https://$_:*") }
        qw(localhost 127.0.0.1 0.0.0.0));
    push @allowed, map { "$_://*" } qw(app file tauri vscode-webview vscode-file);
    for my $pattern (@allowed) {
        my $regex = join ".*", map { quotemeta } split /\*/, $pattern, -1;
        return 1 if $origin =~ /^$regex$/;
    }
    return 0;
}

# Ask a server; its status, headers and an open handle on the body. Status 0 is an error, told in place of the headers.
sub ask {
    my ($method, $url, $headers, $body) = @_;
    my ($scheme, $server, $path) = $url =~ m{^(https?)://([^/]+)(/.*)$} or return (0, "parse $url");
    my $handle = $scheme eq "https" ? by_curl($method, $url, $headers) : undef;
    if (!$handle) {
        my ($name, $number) = $server =~ /^\[?(.*?)\]?:(\d+)$/ ? ($1, $2) : ($server, 80);
        $handle = IO::Socket::IP->new(PeerHost => $name, PeerPort => $number, Timeout => 30)
            or return (0, "dial tcp: $@");
        my $lines = join "", map { "$_: $headers->{$_}\r\n" } sort keys %{ $headers // {} };
        $lines .= "Content-Length: " . length($body // "") . "\r\n" if $method eq "POST";
        print $handle "$method $path HTTP/1.0\r\nHost: $server\r\n$lines\r\n", $body // "";
        $handle->flush;
    }
    my $first = line_of($handle);
    my ($status) = $first =~ m{^HTTP/[\d.]+ (\d+)} or return (0, curls_words($first));
    my %found;
    while (my $line = line_of($handle)) {
        last if $line =~ /^\r?$/;
        $found{ lc $1 } = $2 if $line =~ /^([^:]+):\s*(.*?)\r?$/;
    }
    return ($status, \%found, $handle);
}

# A line, without a buffer that would keep what follows.
sub line_of {
    my ($handle) = @_;
    my $line = "";
    while (sysread $handle, $line, 1, length $line) { last if $line =~ /\n\z/ }
    return $line;
}

sub rest_of {
    my ($handle) = @_;
    my $text = "";
    1 while sysread $handle, $text, 65536, length $text;
    return $text;
}

sub by_curl {
    my ($method, $url, $headers) = @_;
    my @options = qw(--silent --show-error --include --http1.1 --connect-timeout 30 --suppress-connect-headers);
    push @options, $method eq "HEAD" ? "--head" : ("--request", $method);
    push @options, map { ("--header", "$_: $headers->{$_}") } sort keys %{ $headers // {} };
    my $pid = open(my $handle, "-|") // fail("fork: $!");
    return $handle if $pid;
    open STDERR, ">&", \*STDOUT;
    exec "curl", @options, "--url", $url;
}

# What Go would say.
sub curls_words {
    my ($said) = @_;
    return "http: server gave HTTP response to HTTPS client" if $said =~ /wrong version number|packet length too long/;
    return "tls: failed to verify certificate: x509: certificate signed by unknown authority"
        if $said =~ /^curl: \(60\)/;
    $said =~ s/^curl: \(\d+\) //;
    $said =~ s/\s+$//;
    return "dial tcp: $said";
}

