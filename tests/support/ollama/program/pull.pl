# Bringing a model from a registry, in parts that are taken up again.

# Returns what went wrong. `say` is told of what is done, by fields of a JSON object.
sub pull {
    my ($name, $insecure, $say) = @_;
    return "insecure protocol http" if $name =~ m{^http://} and !$insecure;
    my ($registry, $space, $model, $tag) = parts($name);
    my $base = ($insecure ? "http" : "https") . "://$registry/v2/$space/$model";
    $say->(status => "pulling manifest");
    my $url = "$base/manifests/$tag";
    my ($status, $headers, $handle) = ask("GET", $url, { Accept => $MANIFEST });
    return qq(pull model manifest: Get "$url": $headers) if !$status;
    return "pull model manifest: file does not exist" if $status == 404;
    return "pull model manifest: $status" if $status != 200;
    my $text = rest_of($handle);
    my $manifest = decode_json($text);
    return "pull model manifest: invalid" unless ref $manifest eq "HASH" and ref $manifest->{layers} eq "ARRAY";
    for my $layer (@{ $manifest->{layers} }, $manifest->{config} // ()) {
        my $error = pull_blob($base, $layer->{digest}, $say);
        return $error if $error;
    }
    $say->(status => "verifying sha256 digest");
    for my $layer (@{ $manifest->{layers} }, $manifest->{config} // ()) {
        my $path = blob($layer->{digest});
        next if "sha256:" . sha256($path) eq $layer->{digest};
        unlink $path;
        return "digest mismatch, file must be downloaded again: want $layer->{digest}, got sha256:" . sha256($path)
            if -e $path;
        return "digest mismatch, file must be downloaded again: want $layer->{digest}";
    }
    $say->(status => "writing manifest");
    write_manifest($name, $text);
    return "";
}

sub pull_blob {
    my ($base, $digest, $say) = @_;
    my $path = blob($digest);
    return "" if -e $path;
    my $url = "$base/blobs/$digest";
    my ($status, $headers) = ask("HEAD", $url);
    return qq(Head "$url": $headers) if !$status;
    return "$status" if $status >= 400;
    my $total = $headers->{"content-length"} // 0;
    my @parts = resumed("$path-partial", $total);
    # Where the bytes are; a registry's own answer has the header too.
    ($status, $headers) = ask("GET", $url);
    return qq(Get "$url": $headers) if !$status;
    my $location = $headers->{location} // return "http: no Location header in response";
    my $direct = $location =~ m{^/} ? $base =~ s{(//[^/]*)/.*}{$1}r . $location : $location;
    open my $file, -e "$path-partial" ? "+<:raw" : "+>:raw", "$path-partial" or return "open $path-partial: $!";
    truncate $file, $total;
    for my $part (@parts) {
        my $error = "";
        for my $try (1 .. 6) {
            $error = pull_part($file, $direct, $part, $path, sub { $say->(status => "pulling " . substr($digest, 7, 12),
                digest => $digest, total => count($total), completed => count(completed(@parts))) });
            last if $error eq "" or $error eq "context canceled";
        }
        return $error if $error;
    }
    close $file or return "$path-partial: $!";
    rename "$path-partial", $path;
    unlink "$path-partial-$_->{N}" for @parts;
    return "";
}

sub completed {
    my $sum = 0;
    $sum += $_->{Completed} for @_;
    return $sum;
}

# The parts that an earlier attempt noted, else new ones.
sub resumed {
    my ($partial, $total) = @_;
    my @noted = map { decode_json(read_file($_)) } glob "$partial-*";
    return sort { $a->{N} <=> $b->{N} } @noted if @noted;
    my @parts;
    for (my $offset = 0; $offset < $total; $offset += $part) {
        my $size = $total - $offset < $part ? $total - $offset : $part;
        push @parts, { N => scalar @parts, Offset => $offset, Size => $size, Completed => 0 };
        save_part($partial, $parts[-1]);
    }
    return @parts;
}

sub save_part {
    my ($partial, $part) = @_;
    my @pairs = map { ($_, count($part->{$_})) } qw(N Offset Size Completed);
    write_file("$partial-$part->{N}", encode_json(object(@pairs)));
}

sub pull_part {
    my ($file, $url, $part, $path, $tell) = @_;
    return "" if $part->{Completed} >= $part->{Size};
    my ($from, $to) = ($part->{Offset} + $part->{Completed}, $part->{Offset} + $part->{Size} - 1);
    my ($status, $headers, $handle) = ask("GET", $url, { Range => "bytes=$from-$to" });
    return qq(Get "$url": $headers) if !$status;
    return "unexpected status code $status" if $status != 206 and $status != 200;
    seek $file, $from, 0;
    while ($part->{Completed} < $part->{Size}) {
        return "context canceled" if gone_before($handle);
        my $bytes = "";
        my $count = sysread $handle, $bytes, 65536;
        return "unexpected EOF" unless $count;
        print $file $bytes;
        $file->flush;
        $part->{Completed} += $count;
        save_part("$path-partial", $part);
        $tell->();
    }
    return "";
}

