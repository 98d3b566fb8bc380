# JSON in and out. Objects are hashes, true and false are references to 1 and 0; numbers that go out are `count`s.

sub decode_json {
    my ($text) = @_;
    my $copy = $text // "";
    utf8::decode($copy);
    my $value = eval {
        pos($copy) = 0;
        my $found = any_value(\$copy);
        $copy =~ /\G\s*\z/gc or die "more follows\n";
        [$found];
    };
    return $value ? $value->[0] : undef;
}

sub any_value {
    my ($text) = @_;
    $$text =~ /\G\s*/gc;
    return an_object($text) if $$text =~ /\G\{/gc;
    return a_list($text) if $$text =~ /\G\[/gc;
    return a_text($text) if $$text =~ /\G"/gc;
    return \1 if $$text =~ /\Gtrue/gc;
    return \0 if $$text =~ /\Gfalse/gc;
    return undef if $$text =~ /\Gnull/gc;
    return $1 + 0 if $$text =~ /\G(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)/gc;
    die "no value\n";
}

sub an_object {
    my ($text) = @_;
    my %found;
    return \%found if $$text =~ /\G\s*\}/gc;
    while (1) {
        $$text =~ /\G\s*"/gc or die "no key\n";
        my $key = a_text($text);
        $$text =~ /\G\s*:/gc or die "no colon\n";
        $found{$key} = any_value($text);
        return \%found if $$text =~ /\G\s*\}/gc;
        $$text =~ /\G\s*,/gc or die "no comma\n";
    }
}

sub a_list {
    my ($text) = @_;
    my @found;
    return \@found if $$text =~ /\G\s*\]/gc;
    while (1) {
        push @found, any_value($text);
        return \@found if $$text =~ /\G\s*\]/gc;
        $$text =~ /\G\s*,/gc or die "no comma\n";
    }
}

sub a_text {
    my ($text) = @_;
    my %plain = (n => "\n", t => "\t", r => "\r", b => "\b", f => "\f");
    $$text =~ /\G((?:[^"\\]|\\.)*)"/gcs or die "no end of text\n";
    my $found = $1;
    $found =~ s/\\u([dD][89abAB]..)\\u([dD][c-fC-F]..)/chr(0x10000 + ((hex($1) & 0x3ff) << 10) + (hex($2) & 0x3ff))/ge;
    $found =~ s/\\(?:u([0-9a-fA-F]{4})|(.))/defined $1 ? chr hex $1 : $plain{$2} \/\/ $2/ge;
    return $found;
}

# An object whose names keep their order.
sub object { return { pairs => [@_] } }

sub count { return bless [$_[0]], "Count" }

sub encode_json {
    my ($value) = @_;
    return "null" unless defined $value;
    return $value->[0] if ref $value eq "Count";
    return $$value ? "true" : "false" if ref $value eq "SCALAR";
    return "[" . join(",", map { encode_json($_) } @$value) . "]" if ref $value eq "ARRAY";
    if (ref $value eq "HASH") {
        my @pairs = $value->{pairs} ? @{ $value->{pairs} } : map { ($_, $value->{$_}) } sort keys %$value;
        my @parts;
        while (my ($name, $found) = splice @pairs, 0, 2) { push @parts, a_string($name) . ":" . encode_json($found) }
        return "{" . join(",", @parts) . "}";
    }
    return a_string($value);
}

sub a_string {
    my ($text) = @_;
    utf8::encode($text);
    $text =~ s/(["\\])/\\$1/g;
    $text =~ s/\n/\\n/g;
    $text =~ s/([\x00-\x1f])/sprintf "\\u%04x", ord $1/ge;
    return qq("$text");
}

