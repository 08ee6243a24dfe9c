namespace Virtbus.Tests.Guest;

/// <summary>What scripts of guests with several network interfaces have in common.</summary>
internal static class GuestNetwork
{
    /// <summary>
    /// <c>frame FROM TO ADDRESS</c>: sends a frame of 1514 bytes by one interface to the address of another one, which hears it, and prints its length and the sum of
    /// its payload's bytes. Of a guest that has <c>net_test</c>.
    /// </summary>
    public const string Frame = """
        frame() {
            net_test hear $2 88b5 >/tmp/heard &
            hearer=$!
            until grep -q hearing /tmp/heard; do sleep 0.1; done
            net_test say $1 88b5 1514 $3
            wait $hearer
            tail -n 1 /tmp/heard
        }

        """;

    /// <summary>Finds two interfaces by their addresses: <c>$nic</c> and <c>$peer</c>.</summary>
    public static string FindTwo(string nic, string peer) => $$"""
        modprobe virtio_net
        for n in /sys/class/net/*; do
            case $(cat $n/address) in
            {{nic}}) nic=${n##*/} ;;
            {{peer}}) peer=${n##*/} ;;
            esac
        done

        """;
}
