namespace Virtbus.Platform;

/// <summary>Words for a call of the host that failed where nothing a peer did can be the cause.</summary>
internal static class HostError
{
    /// <summary>Makes the exception for a failed call.</summary>
    internal static VirtbusException Make(string what, Errno error)
    {
        var remedy = error switch
        {
            Errno.EMFILE => "The process has no descriptor left; raise its limit (ulimit -n).",
            Errno.ENOMEM => "The host has no memory left; free some or use fewer devices.",
            Errno.EACCES or Errno.EPERM => "Run as a user that may do it.",
            _ => "The kernel log may say more.",
        };
        return new VirtbusException(error, $"The host refused {what}: {error}. {remedy}");
    }
}
