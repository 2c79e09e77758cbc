#!/usr/bin/perl
# Perl: processes, pipes, files, sockets, signals, sorting.
use strict;
use warnings;
use File::Temp qw(tempdir);
use IO::Select;
use POSIX qw(:sys_wait_h);
use Socket;
use Time::HiRes qw(sleep time);

my $checks = 0;
sub is {
    my ($name, $got, $want) = @_;
    if ($got ne $want) { print "FAIL $name: '$got', not '$want'\n"; exit 1; }
    $checks++;
}
is('backticks', `echo hi`, "hi\n");
is('system', system('sh', '-c', 'exit 3') >> 8, 3);
my $dir = tempdir(CLEANUP => 1);
open(my $f, '>', "$dir/f") or die;
print $f "line $_\n" for 1 .. 1000;
close $f;
open($f, '<', "$dir/f") or die;
my @lines = <$f>;
is('lines', scalar(@lines), 1000);
is('size', -s "$dir/f", 8893);
pipe(my $r, my $w) or die;
my $pid = fork() // die;
if (!$pid) { close $r; syswrite $w, "child $$"; exit 7; }
close $w;
is('pipe', join('', <$r>), "child $pid");
waitpid($pid, 0);
is('status', $? >> 8, 7);
my $caught = 0;
$SIG{ALRM} = sub { $caught++ };
Time::HiRes::alarm(0.05);
sleep 0.3;
is('alarm', $caught, 1);
$SIG{CHLD} = sub { while (waitpid(-1, WNOHANG) > 0) { $caught++ } };
for (1 .. 5) { my $p = fork() // die; if (!$p) { exit 0 } }
my $end = time + 10;
sleep 0.05 while $caught < 6 && time < $end;
is('reaped', $caught, 6);
$SIG{CHLD} = 'DEFAULT';
socketpair(my $one, my $two, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die;
syswrite $one, "over";
is('select', scalar(IO::Select->new($two)->can_read(1)), 1);
sysread $two, my $text, 10;
is('socket', $text, 'over');
my %count;
$count{$_ % 7}++ for 1 .. 70000;
is('hash', join(',', map { $count{$_} } sort keys %count), '10000,10000,10000,10000,10000,10000,10000');
is('sort', join(' ', (sort { $a <=> $b } map { ($_ * 7919) % 1000 } 0 .. 999)[0, 1, 999]), '0 1 999');
(my $s = 'the quick brown fox') =~ s/(\w+)/\u$1/g;
is('regex', $s, 'The Quick Brown Fox');
open(my $p, '-|', 'seq 100 | tail -1') or die;
is('open-pipe', scalar(<$p>), "100\n");
close $p;
mkdir "$dir/d";
rename "$dir/f", "$dir/d/g";
is('rename', -e "$dir/d/g" ? 'y' : 'n', 'y');
opendir(my $dh, "$dir/d");
is('readdir', join(' ', sort grep { !/^\./ } readdir $dh), 'g');
is('stat', (stat "$dir/d/g")[7], 8893);
is('eval', eval { die "caught\n" } // $@, "caught\n");
print "$checks checks passed\n";
