namespace Virtbus.Vm;

/// <summary>How QEMU runs the guest's instructions.</summary>
public enum VmAccelerator
{
    /// <summary>In software. Works on every host; a guest boots in a few seconds.</summary>
    Tcg,

    /// <summary>By hardware virtualization through /dev/kvm. Only used when asked for, since a host may offer it and then hang.</summary>
    Kvm,
}
