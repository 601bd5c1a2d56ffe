-- One database for each service beside the coordinator's, made when the volume is new.
CREATE DATABASE "order";
CREATE DATABASE inventory;
CREATE DATABASE payment;
CREATE DATABASE shipping;
CREATE DATABASE notification;
CREATE DATABASE fraud;
