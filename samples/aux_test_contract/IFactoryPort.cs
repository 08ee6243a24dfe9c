namespace Virtbus.Samples;

/// <summary>What a factory tool may ask of a device.</summary>
public interface IFactoryPort
{
    /// <summary>The serial number; empty until it is provisioned.</summary>
    string SerialNumber { get; }

    /// <summary>Provisions the serial number, once.</summary>
    /// <param name="serialNumber">1 to 32 letters and digits.</param>
    /// <exception cref="Virtbus.Platform.VirtbusException">EINVAL: not such a number; EBUSY: provisioned before.</exception>
    void Provision(string serialNumber);

    /// <summary>Tests the device.</summary>
    /// <returns>One line on what was found.</returns>
    string SelfTest();
}
