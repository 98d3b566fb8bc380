#!/usr/bin/perl
# A stand-in for Ollama: what it stands in for is listed in tests/support/ollama/facts.py. It needs no more of Perl than
# Debian's perl-base has, sha256sum, and curl for https.
use strict;
use warnings;
use File::Basename qw(dirname);
use File::Glob qw(:bsd_glob);
use File::Path qw(make_path);
use IO::Handle;
use IO::Socket::IP;
use Socket qw(MSG_DONTWAIT MSG_PEEK);

our $version = "VERSION";
$| = 1;
STDERR->autoflush(1);

# Tests turn the stand-in by these: where it looks for a host's devices and libraries, GiB of a card's memory, bytes of
# a part of a pulled file. With STAND_IN_SETTINGS it ends when it has told of its settings.
our $root = $ENV{STAND_IN_ROOT} // "";
our $vram = $ENV{STAND_IN_VRAM} // 24;
our $part = $ENV{STAND_IN_PART} // 100_000_000;

fail('$HOME is not defined') unless length($ENV{HOME} // "");
our $home = $ENV{HOME};
our $models = setting("OLLAMA_MODELS") || "$home/.ollama/models";
our $libraries = dirname(dirname($0)) . "/lib/ollama";
our $state = "";  # a folder, while it serves: the loaded model, and models that were listed
our $context = 4096;
our ($scheme, $host, $port) = address(setting("OLLAMA_HOST"));

sub fail {
    print STDERR "Error: $_[0]\n";
    exit 1;
}

# Without blanks and quotes around it.
sub setting {
    my $text = $ENV{$_[0]} // "";
    $text =~ s/^[\s"']+|[\s"']+$//g;
    return $text;
}

# True for anything that does not say no.
sub flag {
    my ($name, $default) = @_;
    my $text = setting($name);
    return $default if $text eq "";
    return $text !~ /^(0|f|F|false|FALSE|False)$/;
}

sub number {
    my ($name, $default) = @_;
    my $text = setting($name);
    return $text =~ /^\d+$/ ? $text : $default;
}

sub address {
    my ($text) = @_;
    my ($scheme, $default) = ("http", 11434);
    if ($text =~ s{^(\w+)://}{}) {
        $scheme = $1;
        $default = { http => 80, https => 443 }->{$scheme} // $default;
    }
    $text =~ s{/.*$}{};
    my ($host, $port) = ("127.0.0.1", $default);
    if ($text =~ /^\[([^\]]*)\]:([^:]*)$/ or $text =~ /^([^:]*):([^:]*)$/) { ($host, $port) = ($1, $2) }
    elsif ($text =~ /^\[?([0-9a-fA-F:.]*:[0-9a-fA-F:.]*)\]?$/) { $host = $1 }
    elsif ($text ne "") { $host = $text }
    if ($port !~ /^\d+$/ or $port > 65535) {
        note("WARN", "invalid port, using default", port => quoted($port), default => $default);
        $port = $default;
    }
    return ($scheme, $host, $port);
}

# Seconds that a model stays loaded, -1 for ever: `5m`, `1h30m`, a bare number of seconds; five minutes for anything else.
sub keep_alive {
    my ($text) = @_;
    return $text < 0 ? -1 : $text if $text =~ /^-?\d+$/;
    my %seconds = (h => 3600, m => 60, s => 1, ms => 0.001, us => 1e-6, ns => 1e-9);
    return 300 unless $text =~ /^-?(?:[\d.]+(?:h|ms|m|us|ns|s))+$/;
    return -1 if $text =~ /^-/;
    my $sum = 0;
    $sum += $1 * $seconds{$2} while $text =~ /([\d.]+)(h|ms|m|us|ns|s)/g;
    return $sum;
}

# A duration as Go writes it.
sub duration {
    my ($seconds) = @_;
    return "2562047h47m16.854775807s" if $seconds < 0;
    my ($hours, $minutes) = (int($seconds / 3600), int($seconds / 60) % 60);
    my $rest = $seconds - 60 * int($seconds / 60);
    return $hours ? "${hours}h${minutes}m${rest}s" : $minutes ? "${minutes}m${rest}s" : "${rest}s";
}

sub quoted {
    my ($text) = @_;
    return $text if $text =~ /^[^\s"=]+$/;
    $text =~ s/(["\\])/\\$1/g;
    return qq("$text");
}

# A line of the log, as Go's slog writes it; names and values follow the message.
sub note {
    my ($level, $message, @pairs) = @_;
    my $line = "time=" . now() . " level=$level source=stand-in msg=" . quoted($message);
    while (my ($name, $value) = splice @pairs, 0, 2) { $line .= " $name=$value" }
    print STDERR "$line\n";
}

sub now {
    my @time = gmtime($_[0] // time);
    return sprintf "%04d-%02d-%02dT%02d:%02d:%02dZ", $time[5] + 1900, $time[4] + 1, @time[3, 2, 1, 0];
}

sub read_file {
    my ($path, $most) = @_;
    open my $file, "<:raw", $path or return undef;
    local $/ = $most ? \$most : undef;
    return scalar <$file> // "";
}

sub write_file {
    my ($path, $text) = @_;
    my $new = "$path.new-$$";  # two processes may write the same one at once
    open my $file, ">:raw", $new or fail("open $path: $!");
    print $file $text;
    close $file or fail("$path: $!");
    rename $new, $path or fail("$path: $!");
}

sub sha256 {
    my ($path) = @_;
    open my $sum, "-|", "sha256sum", "--", $path or fail("sha256sum: $!");
    return (split /\s+/, <$sum> // "")[0] =~ s/^\\//r;
}

