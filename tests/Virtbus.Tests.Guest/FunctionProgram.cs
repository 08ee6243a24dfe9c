namespace Virtbus.Tests.Guest;

/// <summary>guest/vf_test.c, compiled for guests, and the shell functions with which their scripts use it.</summary>
internal static class FunctionProgram
{
    private static readonly GuestProgram _program = new("vf_test");

    /// <summary>
    /// The begin of a script: takes the program from standard input, finds the virtual functions ($first, $second), and has functions to give
    /// one to a driver of the guest.
    /// </summary>
    public static async Task<string> PreludeAsync() => $$"""
        {{await _program.PreludeAsync()}}
        modprobe -a uio_pci_generic vfio_pci vfio_iommu_type1
        echo 8 >/proc/sys/vm/nr_hugepages
        for device in /sys/bus/pci/devices/*; do
            case $(cat $device/vendor)$(cat $device/device) in
            0x56420x1002) [ "$first" ] && second=${device##*/} || first=${device##*/} ;;
            esac
        done
        give() {
            [ ! -e /sys/bus/pci/devices/$1/driver ] || echo $1 >/sys/bus/pci/devices/$1/driver/unbind
            echo $2 >/sys/bus/pci/devices/$1/driver_override
            echo $1 >/sys/bus/pci/drivers_probe
            [ "$(basename $(readlink /sys/bus/pci/devices/$1/driver))" = $2 ]
        }
        by_hand() { give $1 uio_pci_generic; setpci -s $1 COMMAND=6:6; }

        """;

    /// <summary>Sends the program to a guest whose script has the prelude, once the guest is there: what is sent during a reboot is lost.</summary>
    public static Task SendAsync(Guest guest) => _program.SendAsync(guest);
}
